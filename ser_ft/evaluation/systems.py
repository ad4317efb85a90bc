"""A system: runs that differ in fold and seed alone, their test answers pooled and scored."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from . import metrics as measures
from .calibration import expected_calibration_error
from .confidence_intervals import ConfidenceInterval, count_by_speaker, interval_from_counts
from .grouping import group_masks, is_known
from .run_folder import RunFolder
from .validation import Floats, Ints

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("transfer", "baseline", "from-scratch", "fusion", "other", "classical")
CROSS_CORPUS_PREFIX = "cross-corpus-"
LEAVE_ONE_CORPUS_PREFIX = "corpus-"
CLIP_COLUMNS = ("id", "path", "corpus", "speaker", "gender", "intensity", "duration", "label")


@dataclass(frozen=True, eq=False)
class SystemRun:
    """A run of a system: its folder, its files as read, and its answers on the test part, a row per clip."""

    folder: RunFolder
    metrics: Mapping[str, Any]
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    test_predictions: pd.DataFrame
    custom_name: str | None = None

    @property
    def seeds(self) -> tuple[int, int]:
        """The seeds of split and training: each clip is tested once for each pair of them."""
        return int(self.metrics["split"]["seed"]), int(self.metrics["seed"])

    @property
    def uar(self) -> float:
        """The UAR on the test part of this run alone."""
        return float(self.metrics["parts"]["test"]["uar"])


@dataclass(frozen=True, eq=False)
class System:
    """Runs that differ in fold (or corpus) and seed alone, pooled.

    Attributes:
        name: for people, unique in a test set. kind: one of `KINDS`. members: its runs.
        clips: a row per test clip, by id: `CLIP_COLUMNS`. labels: their class numbers, shape (N,).
        probabilities: shape (repetitions, N, C), for each pair of seeds.
    """

    name: str
    kind: str
    runs: tuple[SystemRun, ...]
    clips: pd.DataFrame
    labels: Ints
    probabilities: Floats

    @property
    def model(self) -> str:
        """What the runs call their model."""
        return str(self.runs[0].metrics["model"])

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes, in the order of their numbers."""
        return tuple(self.runs[0].metrics["classes"])

    @property
    def leaking(self) -> bool:
        """Whether speakers of the test part were heard in training."""
        return bool(self.runs[0].metrics["split"]["leaking"])

    @property
    def split(self) -> str:
        """The name of the split, without its fold: "kfold"; "corpus" where each corpus is left out in turn."""
        return split_family(self.runs[0].metrics)

    @property
    def has_unknown_speakers(self) -> bool:
        """Whether a clip's speaker is not known, so that nothing can be said over speakers."""
        return not all(map(is_known, self.clips["speaker"]))

    @property
    def is_model(self) -> bool:
        """Whether it is more than a baseline."""
        return self.kind != "classical"

    @cached_property
    def tested(self) -> Hashable:
        """What it was tested on: the same for two systems that may be compared."""
        # The rows of a cross-corpus matrix are never one test set with a split of another kind.
        return (
            clips_fingerprint(self.clips),
            self.classes,
            self.leaking,
            self.split if self.split.startswith(CROSS_CORPUS_PREFIX) else None,
        )

    @cached_property
    def predictions(self) -> Ints:
        """The most probable class of each clip, shape (repetitions, N)."""
        return np.asarray(self.probabilities.argmax(axis=2), dtype=np.int64)

    @cached_property
    def confusion(self) -> Ints:
        """Counts summed over the repetitions, shape (C, C): a row for each label, a column for each prediction."""
        size = len(self.classes)
        counts = [measures.confusion_matrix(self.labels, row, size) for row in self.predictions]
        return np.asarray(np.sum(counts, axis=0), dtype=np.int64)

    @cached_property
    def scores(self) -> dict[str, Any]:
        """The pooled scores, each the mean over the repetitions.

        uar, accuracy, macro_f1, ece, chance; low, high (of the UAR's interval over speakers, from counts summed over
        the repetitions) or None; std_folds and std_seeds (of the UAR; n - 1 in the denominator), None
        where there is one alone; recall: class -> share, None where it has no clips.
        """
        size, truth = len(self.classes), self.labels
        rows = list(zip(self.predictions, self.probabilities, strict=True))
        uars = [measures.uar(truth, row, size) for row in self.predictions]
        interval = self.interval()
        support = self.confusion.sum(axis=1)
        return {
            "uar": float(np.mean(uars)),
            "low": interval and interval.low,
            "high": interval and interval.high,
            "std_folds": _deviation(self._fold_uars()),
            "std_seeds": _deviation(uars),
            "accuracy": float((self.predictions == truth).mean()),
            "macro_f1": float(np.mean([measures.macro_f1(truth, row, size) for row, _ in rows])),
            "ece": float(np.mean([expected_calibration_error(truth, shares) for _, shares in rows])),
            "chance": 1 / int((support > 0).sum()),
            "recall": {
                name: float(self.confusion[place, place] / support[place]) if support[place] else None
                for place, name in enumerate(self.classes)
            },
        }

    def interval(self, rows: np.ndarray | None = None) -> ConfidenceInterval | None:
        """Estimate the interval of the UAR over speakers, of all clips or of some rows: see `interval_from_counts`.

        None where a speaker is not known, too.
        """
        chosen = np.arange(len(self.labels)) if rows is None else rows
        if not all(map(is_known, self.clips["speaker"].iloc[chosen])):
            return None
        speakers = self.clips["speaker"].to_numpy(dtype=str)[chosen]
        correct, clips = count_by_speaker(self.labels[chosen], self.predictions[:, chosen], speakers, len(self.classes))
        return interval_from_counts(correct, clips)

    def scores_by(self, column: str) -> dict[str, dict[str, Any]]:
        """Score the groups of a column of the clips: "corpus", "gender", "intensity".

        Returns:
            group -> clips, speakers, uar (over the classes that occur in it), low, high, chance; without the clips of
            an unknown group.
        """
        found = {}
        for group, there in group_masks(self.clips[column].tolist(), column, len(self.labels)).items():
            rows = np.flatnonzero(there)
            labels, interval = self.labels[rows], self.interval(rows)
            uars = [measures.uar(labels, answers, len(self.classes)) for answers in self.predictions[:, rows]]
            found[group] = {
                "clips": len(rows),
                "speakers": int(self.clips["speaker"].iloc[rows].nunique()),
                "uar": float(np.mean(uars)),
                "low": interval and interval.low,
                "high": interval and interval.high,
                "chance": 1 / len(np.unique(labels)),
            }
        return found

    @cached_property
    def cost(self) -> dict[str, Any]:
        """What it costs, None where the runs do not say.

        parameters; trained_parameters; seconds: of training, the mean of the runs; real_time_factor: seconds of
        computing per second of sound, one clip at a time, the mean of the runs; machines: what they ran on.
        """
        kept = [member.environment for member in self.runs if member.environment]
        seconds = [float(item["seconds"]) for item in kept if item.get("seconds") is not None]
        speeds = [float(item["speed"]["real_time_factor"]) for item in kept if item.get("speed")]
        facts = self.runs[0].metrics
        return {
            "parameters": facts.get("parameters"),
            "trained_parameters": facts.get("trained_parameters"),
            "seconds": float(np.mean(seconds)) if seconds else None,
            "real_time_factor": float(np.mean(speeds)) if speeds else None,
            "machines": tuple(sorted({machine_name(item) for item in kept})),
        }

    def _fold_uars(self) -> list[float]:
        """Return the UAR of each set of clips that was tested at once, the mean over its repetitions."""
        folds: dict[frozenset[str], list[float]] = {}
        for member in self.runs:
            folds.setdefault(frozenset(member.test_predictions["id"]), []).append(member.uar)
        return [float(np.mean(found)) for found in folds.values()]


@dataclass(frozen=True, eq=False)
class Leaderboard:
    """Systems that were tested on the same clips under the same classes, the highest UAR first."""

    systems: tuple[System, ...]

    @property
    def best(self) -> System:
        """The system with the highest UAR; clips, classes, split and leaking are the same for all."""
        return self.systems[0]

    @property
    def models(self) -> tuple[System, ...]:
        """The systems that are more than baselines."""
        return tuple(system for system in self.systems if system.is_model)

    @property
    def corpora(self) -> tuple[str, ...]:
        """The corpora that the clips are of."""
        return tuple(sorted(set(self.best.clips["corpus"])))

    @property
    def speakers(self) -> int:
        """How many people speak in the clips."""
        return int(self.best.clips["speaker"].nunique())

    @property
    def is_cross_corpus(self) -> bool:
        """Whether its systems learned from one corpus and are tested on others too: a row of the matrix."""
        return self.best.split.startswith(CROSS_CORPUS_PREFIX)


def clips_fingerprint(clips: pd.DataFrame) -> str:
    """Return a fingerprint of clips and their labels; `clips`: in the order of their ids."""
    text = "\n".join(clips["id"] + "\t" + clips["label"])
    return hashlib.sha256(text.encode()).hexdigest()


def split_family(facts: Mapping[str, Any]) -> str:
    """Name the split of a run's metrics.json without its fold, or the corpus that it leaves out."""
    name = str(facts["split"]["name"])
    return "corpus" if name.startswith(LEAVE_ONE_CORPUS_PREFIX) else name


def machine_name(environment: Mapping[str, Any]) -> str:
    """Name what a run's environment.json was measured on: "cpu, x86_64, 2 cores, 1 thread, 2 runs at a time"."""
    device = str(environment.get("device", "unknown device"))
    named = f"{device}, {environment.get('processor', '?')}, {environment.get('cores', '?')} cores"
    threads, jobs = (environment.get("speed") or {}).get("threads"), environment.get("jobs", 1)
    named += f", {threads} thread{'s' if threads > 1 else ''}" if threads else ""
    return named + (f", {jobs} runs at a time" if jobs > 1 else "")


def _deviation(values: list[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
