"""Models and everything that is saved with them, registered with transformers' Auto classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..utils.errors import raise_machine_failure
from ..utils.readers import read_json

MODELS = ("mfcc-cnn", "conv1d", "lstm", "plain-cnn", "residual-cnn", "wide-cnn", "compact-cnn")
"""Names of our own networks, which are trained from scratch."""

CLASSICAL = ("majority", "logistic", "svm")
"""Names of the classical baselines."""

SHIPPED, SMALL = "shipped", "small"
"""Names of the models that come with ser_ft: the default one, and one for small devices and very long recordings."""

SHIPPED_MODELS = (SHIPPED, SMALL)

_ASSETS = Path(__file__).resolve().parents[1] / "assets"

OWN_PREFIX = "ser_ft_"
"""Prefix of the `model_type` of our own networks."""

SPEECH_TYPE = "ser_ft_speech"
"""The `model_type` of a pretrained speech encoder with a pooling head."""

IMAGE_PREFIXES = ("timm/", "torchvision/")
"""Prefixes of the names of image backbones."""


def resolve_model_path(name: str) -> str:
    """Return the folder of a model that comes with ser_ft for its name, and any other name unchanged."""
    return str(_ASSETS / name / "model") if name in SHIPPED_MODELS else name


def shipped_file(name: str = SHIPPED) -> Path:
    """Return the .onnx file of a model that comes with ser_ft, which needs neither PyTorch nor transformers."""
    return _ASSETS / name / "model.onnx"


def model_kind(name: str) -> str:
    """Return the kind of model that a name or folder stands for.

    "own" is one of `MODELS`, or a folder or a model of `SHIPPED_MODELS` with a saved network of ser_ft; "image" is
    an image backbone of timm or torchvision, or a folder where timm or ser_ft saved one; "speech" is any other name.
    """
    if name in MODELS:
        return "own"
    config = read_model_config(name)
    is_saved_image = "pretrained_cfg" in config or config.get("model_type") == "ser_ft_spectrogram"
    if name.startswith(IMAGE_PREFIXES) or is_saved_image:
        return "image"
    return "own" if is_own_model_folder(name) else "speech"


def is_own_model_folder(folder: str) -> bool:
    """Return whether a folder holds a saved network of ser_ft."""
    return is_own_network(str(read_model_config(folder).get("model_type", "")))


def is_own_network(model_type: str) -> bool:
    """Return whether a `model_type` is that of one of our own networks, whose inputs are frames of descriptors."""
    return model_type.startswith(OWN_PREFIX) and model_type != SPEECH_TYPE


def read_model_config(folder: str) -> dict[str, Any]:
    """Return the content of a folder's config.json; an empty dictionary if there is none."""
    file = Path(resolve_model_path(folder)) / "config.json"
    try:
        config = read_json(file) if file.is_file() else {}
    except (OSError, ValueError) as error:
        raise_machine_failure(error)
        return {}
    return config if isinstance(config, dict) else {}
