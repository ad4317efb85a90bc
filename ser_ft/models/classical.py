"""Systems that take seconds to fit and show what a network must beat: they are trained beside it, never shipped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch

from .features import SpectralFeatureExtractor

CLASSICAL = ("majority", "logistic", "svm")
CLASSICAL_DESCRIPTORS = (
    "mfcc",
    "zcr",
    "rms",
    "energy-entropy",
    "centroid",
    "spread",
    "spectral-entropy",
    "flux",
    "rolloff",
    "chroma",
)
CLASSICAL_FUNCTIONALS = (
    *("mean", "deviation", "quartile-25", "median", "quartile-75"),
    *("change-mean", "change-deviation", "change-quartile-25", "change-median", "change-quartile-75"),
)
_LOGISTIC_C = 0.01


class ClassicalModel(Protocol):
    """Fits on statistics of clips, shape (clips, numbers), and gives probabilities, shape (clips, classes)."""

    def fit(self, statistics: np.ndarray, labels: np.ndarray, classes: int) -> None:
        """Fit on the training clips; labels, shape (clips,), are class numbers."""

    def probabilities(self, statistics: np.ndarray) -> np.ndarray:
        """Return the probability of each class for each clip, shape (clips, classes)."""


def classical_feature_extractor() -> SpectralFeatureExtractor:
    """Return the extractor of the frames whose statistics baselines are given."""
    return SpectralFeatureExtractor(descriptors=CLASSICAL_DESCRIPTORS, n_mfcc=20, n_mels=64, hop_length=256)


class Majority:
    """Always the most frequent class of training: its UAR is chance."""

    def fit(self, statistics: np.ndarray, labels: np.ndarray, classes: int) -> None:  # noqa: ARG002
        """Count the classes."""
        self._shares = np.bincount(labels, minlength=classes) / len(labels)

    def probabilities(self, statistics: np.ndarray) -> np.ndarray:
        """Return the classes' shares in training, for every clip alike."""
        return np.tile(self._shares, (len(statistics), 1))


class Logistic:
    """Statistics of descriptors, standardised on the training clips, and logistic regression."""

    def fit(self, statistics: np.ndarray, labels: np.ndarray, classes: int) -> None:
        """Fit scaler and regression."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        self._classes = classes
        regression = LogisticRegression(C=_LOGISTIC_C, class_weight="balanced", max_iter=1000)
        self._pipeline = make_pipeline(StandardScaler(), regression).fit(statistics, labels)

    def probabilities(self, statistics: np.ndarray) -> np.ndarray:
        """Return its probabilities; a class that was not in training gets none."""
        scores = np.zeros((len(statistics), self._classes))
        scores[:, self._pipeline[-1].classes_] = self._pipeline.predict_proba(statistics)
        return scores


class Svm:
    """Statistics of descriptors, standardised on the training clips; a support vector machine with a radial kernel."""

    def fit(self, statistics: np.ndarray, labels: np.ndarray, classes: int) -> None:
        """Fit scaler and machine."""
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import SVC

        self._classes = classes
        machine = SVC(C=10.0, class_weight="balanced", decision_function_shape="ovr")
        self._pipeline = make_pipeline(StandardScaler(), machine).fit(statistics, labels)

    def probabilities(self, statistics: np.ndarray) -> np.ndarray:
        """Return a softmax of the decision values: an order of the classes, not calibrated probabilities."""
        values = self._pipeline.decision_function(statistics)
        seen = self._pipeline[-1].classes_
        if len(seen) == 2:
            values = np.stack((-values.ravel(), values.ravel()), axis=1)
        shares = np.exp(values - values.max(axis=1, keepdims=True))
        scores = np.zeros((len(statistics), self._classes))
        scores[:, seen] = shares / shares.sum(axis=1, keepdims=True)
        return scores


def make_classical(name: str) -> ClassicalModel:
    """Make a baseline by its name, of `CLASSICAL`."""
    known: dict[str, ClassicalModel] = {"majority": Majority(), "logistic": Logistic(), "svm": Svm()}
    return known[name]


# Of float32, in sums over frames: what varies less does not vary.
_ROUNDING = 1e-5
_QUANTILES = {"quartile-25": 0.25, "median": 0.5, "quartile-75": 0.75}
_MOMENTS = {"mean", "deviation", "skewness", "kurtosis"}
_OF_FRAMES = ("mean", "deviation", "minimum", *_QUANTILES, "maximum", "skewness", "kurtosis")
FUNCTIONALS = (*_OF_FRAMES, *(f"change-{name}" for name in _OF_FRAMES))


def frame_statistics(
    features: torch.Tensor, mask: torch.Tensor, functionals: Sequence[str] = FUNCTIONALS
) -> torch.Tensor:
    """Sum up each clip's frames.

    Args:
        features: shape (clips, frames, size). mask: shape (clips, frames), 1 where a frame is real, these first.
        functionals: of `FUNCTIONALS`. Those that begin with "change-" are of the differences from frame to frame,
            and 0 for a clip of one frame. Kurtosis is that above a normal distribution's; it and the skewness are 0
            where nothing varies. Quantiles lie between frames as NumPy's do.

    Returns:
        Shape (clips, functionals x size): all columns of the first functional, then of the second, and so on.

    Raises:
        ValueError: a functional is unknown, or a clip has no real frame.
    """
    unknown = [name for name in functionals if name not in FUNCTIONALS]
    if unknown or not functionals:
        raise ValueError(f"functionals must be some of {', '.join(FUNCTIONALS)}, not {', '.join(unknown) or 'none'}")
    counts = mask.sum(dim=1).long()
    if not bool((counts > 0).all()):
        raise ValueError("a clip has no real frame")
    found = _summed(features, counts, [name for name in functionals if not name.startswith("change-")])
    changed = [name.removeprefix("change-") for name in functionals if name.startswith("change-")]
    if changed:
        step = torch.zeros_like(features)
        step[:, :-1] = features[:, 1:] - features[:, :-1]
        step[counts == 1] = 0
        of_changes = _summed(step, (counts - 1).clamp(min=1), changed)
        found |= {f"change-{name}": values for name, values in of_changes.items()}
    return torch.cat([found[name] for name in functionals], dim=1)


def _summed(features: torch.Tensor, counts: torch.Tensor, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """Compute functionals of the first `counts` frames of each clip, each of shape (clips, size)."""
    real = torch.arange(features.shape[1], device=features.device) < counts[:, None]
    found: dict[str, torch.Tensor] = {}
    if _MOMENTS & set(names):
        found |= _moments(features, real.to(features.dtype), names)
    if not {"minimum", "maximum", *_QUANTILES}.isdisjoint(names):
        ordered = _sorted(features.masked_fill(~real[..., None], torch.inf))
        at = _reader(ordered, counts)
        found |= {"minimum": ordered[:, 0], "maximum": at(1.0)}
        found |= {name: at(share) for name, share in _QUANTILES.items()}
    return found


def _moments(features: torch.Tensor, real: torch.Tensor, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """Compute the moments that are asked for, and those that they need."""
    shares = (real / real.sum(dim=1, keepdim=True))[:, None]

    def average(values: torch.Tensor) -> torch.Tensor:
        return (shares @ values)[:, 0]

    found = {"mean": average(features)}
    if _MOMENTS & set(names) == {"mean"}:
        return found
    apart = (features - found["mean"][:, None]).mul_(real[..., None])
    deviation = average(apart.square()).sqrt()
    varies = deviation > _ROUNDING * found["mean"].abs()
    found["deviation"] = deviation * varies
    if {"skewness", "kurtosis"}.isdisjoint(names):
        return found
    apart /= deviation.where(varies, torch.inf)[:, None]
    square = apart.square()
    return found | {"skewness": average(square * apart), "kurtosis": (average(square.square()) - 3) * varies}


def _sorted(values: torch.Tensor) -> torch.Tensor:
    """Sort along the second axis."""
    if values.is_cuda:
        return values.sort(dim=1).values
    # Ten times as fast: torch also finds where each value came from.
    return torch.from_numpy(np.sort(values.numpy(), axis=1))


def _reader(ordered: torch.Tensor, counts: torch.Tensor) -> Callable[[float], torch.Tensor]:
    """Return what reads a quantile off sorted frames, linear between two."""

    def at(share: float) -> torch.Tensor:
        place = share * (counts - 1)
        low = place.floor().long()
        rows = torch.arange(len(ordered), device=ordered.device)
        high = torch.minimum(low + 1, counts - 1)
        return torch.lerp(ordered[rows, low], ordered[rows, high], (place - low)[:, None].to(ordered.dtype))

    return at
