"""Publishing on the Hub: a model, its card, what it was made of, and a page where it can be tried."""

from .client import NotSent
from .publish import check, push

__all__ = ["NotSent", "check", "push"]
