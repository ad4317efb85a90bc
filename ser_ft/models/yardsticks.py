"""Systems that take seconds to fit and show what a network must beat: they are trained beside it, never shipped."""

from __future__ import annotations

from typing import Protocol

import numpy as np

YARDSTICKS = ("majority", "svm")


class Yardstick(Protocol):
    """Fits on statistics of clips, shape (clips, numbers), and gives probabilities, shape (clips, classes)."""

    def fit(self, statistics: np.ndarray, labels: np.ndarray, classes: int) -> None:
        """Fit on the training clips; labels, shape (clips,), are class numbers."""

    def probabilities(self, statistics: np.ndarray) -> np.ndarray:
        """Return the probability of each class for each clip, shape (clips, classes)."""


def statistics(frames: np.ndarray) -> np.ndarray:
    """Sum up a clip's frames, shape (frames, size): mean, deviation, quartiles, and the same of its changes."""
    change = np.diff(frames, axis=0) if len(frames) > 1 else np.zeros_like(frames)
    parts = [np.concatenate((x.mean(0), x.std(0), *np.percentile(x, (25, 50, 75), axis=0))) for x in (frames, change)]
    return np.concatenate(parts).astype(np.float32)


class Majority:
    """Always the most frequent class of training: its UAR is chance."""

    def fit(self, statistics: np.ndarray, labels: np.ndarray, classes: int) -> None:  # noqa: ARG002
        """Count the classes."""
        self._shares = np.bincount(labels, minlength=classes) / len(labels)

    def probabilities(self, statistics: np.ndarray) -> np.ndarray:
        """Return the classes' shares in training, for every clip alike."""
        return np.tile(self._shares, (len(statistics), 1))


class StatisticsSvm:
    """Statistics of MFCCs, standardised on the training clips, and a support vector machine with a radial kernel."""

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


def make_yardstick(name: str) -> Yardstick:
    """Make a yardstick by its name, of `YARDSTICKS`."""
    known: dict[str, Yardstick] = {"majority": Majority(), "svm": StatisticsSvm()}
    return known[name]
