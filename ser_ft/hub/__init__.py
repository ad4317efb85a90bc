"""Publishing on the Hub: a model, its card, what it was made of, and a page where it can be tried."""

from .client import UploadError
from .publish import check, push

__all__ = ["UploadError", "check", "push"]
