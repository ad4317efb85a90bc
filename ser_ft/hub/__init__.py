"""Publishing on the Hub: a model with its card, its data's card, and a Space with the demo."""

from .client import UploadError
from .publish import check_access, push

__all__ = ["UploadError", "check_access", "push"]
