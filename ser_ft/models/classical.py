"""Classical baselines on statistics of descriptors over time, which are fitted in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from .features import SpectralFeatureExtractor

CLASSICAL_FUNCTIONALS = (
    *("mean", "deviation", "quartile-25", "median", "quartile-75"),
    *("change-mean", "change-deviation", "change-quartile-25", "change-median", "change-quartile-75"),
)
_LOGISTIC_C = 0.01


class ClassicalModel(Protocol):
    """Classifies clips by their statistics."""

    def fit(self, statistics: np.ndarray, labels: np.ndarray, num_classes: int) -> None:
        """Fit the model on clips: their statistics, shape (clips, size), and class numbers, shape (clips,)."""

    def predict_proba(self, statistics: np.ndarray) -> np.ndarray:
        """Return the probability of each class for each clip, shape (clips, classes)."""


def classical_feature_extractor() -> SpectralFeatureExtractor:
    """Return the extractor of the frames whose statistics are the inputs of classical baselines."""
    spectral = ("centroid", "spread", "spectral-entropy", "flux", "rolloff", "chroma")
    names = ("mfcc", "zcr", "rms", "energy-entropy", *spectral)
    return SpectralFeatureExtractor(descriptors=names, n_mfcc=20, n_mels=64, hop_length=256)


class _Majority:
    """Predicts the class frequencies of training; its UAR is the chance level."""

    def fit(self, statistics: np.ndarray, labels: np.ndarray, num_classes: int) -> None:  # noqa: ARG002
        self._frequencies = np.bincount(labels, minlength=num_classes) / len(labels)

    def predict_proba(self, statistics: np.ndarray) -> np.ndarray:
        return np.tile(self._frequencies, (len(statistics), 1))


class _Logistic:
    """Logistic regression on standardized statistics; a class without training clips gets probability 0."""

    def fit(self, statistics: np.ndarray, labels: np.ndarray, num_classes: int) -> None:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        self._num_classes = num_classes
        regression = LogisticRegression(C=_LOGISTIC_C, class_weight="balanced", max_iter=1000)
        self._pipeline = make_pipeline(StandardScaler(), regression).fit(statistics, labels)

    def predict_proba(self, statistics: np.ndarray) -> np.ndarray:
        scores = np.zeros((len(statistics), self._num_classes))
        scores[:, self._pipeline[-1].classes_] = self._pipeline.predict_proba(statistics)
        return scores


class _Svm:
    """A support vector machine on standardized statistics; its probabilities are a softmax, not calibrated."""

    def fit(self, statistics: np.ndarray, labels: np.ndarray, num_classes: int) -> None:
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import SVC

        self._num_classes = num_classes
        svm = SVC(C=10.0, class_weight="balanced", decision_function_shape="ovr")
        self._pipeline = make_pipeline(StandardScaler(), svm).fit(statistics, labels)

    def predict_proba(self, statistics: np.ndarray) -> np.ndarray:
        values = self._pipeline.decision_function(statistics)
        seen = self._pipeline[-1].classes_
        if len(seen) == 2:
            values = np.stack((-values.ravel(), values.ravel()), axis=1)
        exponentials = np.exp(values - values.max(axis=1, keepdims=True))
        scores = np.zeros((len(statistics), self._num_classes))
        scores[:, seen] = exponentials / exponentials.sum(axis=1, keepdims=True)
        return scores


def make_classical(name: str) -> ClassicalModel:
    """Return a new baseline by its name from `ser_ft.models.CLASSICAL`."""
    models: dict[str, type[ClassicalModel]] = {"majority": _Majority, "logistic": _Logistic, "svm": _Svm}
    return models[name]()


# Relative rounding error of float32 sums over frames; values that vary less are constant.
_ROUNDING = 1e-5
_QUANTILES = {"quartile-25": 0.25, "median": 0.5, "quartile-75": 0.75}
_MOMENTS = {"mean", "deviation", "skewness", "kurtosis"}
_OF_FRAMES = ("mean", "deviation", "minimum", *_QUANTILES, "maximum", "skewness", "kurtosis")
FUNCTIONALS = (*_OF_FRAMES, *(f"change-{name}" for name in _OF_FRAMES))


def frame_statistics(
    features: torch.Tensor, mask: torch.Tensor, functionals: Sequence[str] = FUNCTIONALS
) -> torch.Tensor:
    """Return statistics over the frames of each clip.

    Args:
        features: frames, shape (clips, frames, size).
        mask: 1 for frames of the clip, which come first, and 0 for padding, shape (clips, frames).
        functionals: names from `FUNCTIONALS`. Those that begin with "change-" are computed on the differences between
            successive frames, and are 0 for a clip of one frame. Kurtosis is excess kurtosis; kurtosis and skewness of
            constant values are 0. Quantiles are interpolated linearly, as in NumPy.

    Returns:
        All columns of the first functional, then of the second, and so on, shape (clips, functionals * size).
    """
    unknown = [name for name in functionals if name not in FUNCTIONALS]
    if unknown or not functionals:
        raise ValueError(f"functionals must be some of {', '.join(FUNCTIONALS)}, not {', '.join(unknown) or 'none'}")
    counts = mask.sum(dim=1).long()
    if not bool((counts > 0).all()):
        raise ValueError("a clip has no frame")
    statistics = _compute(features, counts, [name for name in functionals if not name.startswith("change-")])
    changed = [name.removeprefix("change-") for name in functionals if name.startswith("change-")]
    if changed:
        steps = torch.zeros_like(features)
        steps[:, :-1] = features[:, 1:] - features[:, :-1]
        steps[counts == 1] = 0
        change_statistics = _compute(steps, (counts - 1).clamp(min=1), changed)
        statistics |= {f"change-{name}": values for name, values in change_statistics.items()}
    return torch.cat([statistics[name] for name in functionals], dim=1)


def _compute(features: torch.Tensor, counts: torch.Tensor, names: Sequence[str]) -> dict[str, torch.Tensor]:
    mask = torch.arange(features.shape[1], device=features.device) < counts[:, None]
    statistics: dict[str, torch.Tensor] = {}
    if _MOMENTS & set(names):
        statistics |= _moments(features, mask.to(features.dtype), names)
    if not {"minimum", "maximum", *_QUANTILES}.isdisjoint(names):
        ordered = _sorted(features.masked_fill(~mask[..., None], torch.inf))
        statistics |= {"minimum": ordered[:, 0], "maximum": _quantile(ordered, counts, 1.0)}
        statistics |= {name: _quantile(ordered, counts, level) for name, level in _QUANTILES.items()}
    return statistics


def _moments(features: torch.Tensor, mask: torch.Tensor, names: Sequence[str]) -> dict[str, torch.Tensor]:
    weights = (mask / mask.sum(dim=1, keepdim=True))[:, None]

    def average(values: torch.Tensor) -> torch.Tensor:
        return (weights @ values)[:, 0]

    moments = {"mean": average(features)}
    if _MOMENTS & set(names) == {"mean"}:
        return moments
    centered = (features - moments["mean"][:, None]).mul_(mask[..., None])
    std = average(centered.square()).sqrt()
    varies = std > _ROUNDING * moments["mean"].abs()
    moments["deviation"] = std * varies
    if {"skewness", "kurtosis"}.isdisjoint(names):
        return moments
    centered /= std.where(varies, torch.inf)[:, None]
    square = centered.square()
    return moments | {"skewness": average(square * centered), "kurtosis": (average(square.square()) - 3) * varies}


def _sorted(values: torch.Tensor) -> torch.Tensor:
    if values.is_cuda:
        return values.sort(dim=1).values
    # NumPy is ten times as fast as torch, which also computes the indices.
    return torch.from_numpy(np.sort(values.numpy(), axis=1))


def _quantile(ordered: torch.Tensor, counts: torch.Tensor, level: float) -> torch.Tensor:
    position = level * (counts - 1)
    low = position.floor().long()
    rows = torch.arange(len(ordered), device=ordered.device)
    high = torch.minimum(low + 1, counts - 1)
    return torch.lerp(ordered[rows, low], ordered[rows, high], (position - low)[:, None].to(ordered.dtype))
