"""Systems that take seconds to fit and show what a network must beat: they are trained beside it, never shipped."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from .features import SpectralFeatureExtractor

CLASSICAL = ("majority", "logistic", "svm")
DESCRIPTORS = (
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
FUNCTIONALS = (
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


def classical_features() -> SpectralFeatureExtractor:
    """Return the extractor of the frames whose statistics baselines are given."""
    return SpectralFeatureExtractor(descriptors=DESCRIPTORS, n_mfcc=20, n_mels=64, hop_length=256)


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
