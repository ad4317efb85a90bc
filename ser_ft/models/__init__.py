"""All that is saved with a model, behind the Auto classes of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MODELS = ("mfcc-cnn", "conv1d", "lstm", "plain-cnn", "residual-cnn", "wide-cnn", "compact-cnn")
"""Small networks, trained from nothing: the classic ones that transfer learning is compared with, and compact-cnn."""

SHIPPED = "shipped"
"""The name of the model that comes with ser_ft."""

IMAGE_PREFIXES = ("timm/", "torchvision/")
"""What the names of image backbones begin with."""


def resolve_model_path(name: str) -> str:
    """Return where a model lies: of the one that comes with ser_ft, its folder; of others, their name as it is."""
    return str(Path(__file__).resolve().parents[1] / "assets" / "model") if name == SHIPPED else name


def model_kind(name: str) -> str:
    """Say what a model's name stands for.

    Returns:
        "own", one of `MODELS`, the one that comes with ser_ft or a folder where one was saved; "image", a backbone of
        timm on the Hub, of torchvision, or in a folder where timm or ser_ft saved one; otherwise "speech".
    """
    if name in MODELS:
        return "own"
    said = read_model_config(name)
    if name.startswith(IMAGE_PREFIXES) or "pretrained_cfg" in said or said.get("model_type") == "ser_ft_spectrogram":
        return "image"
    return "own" if is_own_model_folder(name) else "speech"


def is_own_model_folder(folder: str) -> bool:
    """Say whether a network of ours was saved in a folder."""
    return str(read_model_config(folder).get("model_type", "")).startswith("ser_ft_")


def read_model_config(folder: str) -> dict[str, Any]:
    """Return what a folder's config.json says, if there is one."""
    try:
        found = json.loads((Path(resolve_model_path(folder)) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
