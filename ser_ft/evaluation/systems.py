"""A system: runs that differ only in fold and seed, with their test predictions pooled and scored together."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..data.splits import Leaking
from . import metrics
from .calibration import expected_calibration_error
from .confidence_intervals import ConfidenceInterval, count_by_speaker, interval_from_counts
from .grouping import group_masks, is_known
from .run_folder import TABLE_COLUMNS, RunFolder
from .validation import Floats, Ints

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["transfer", "baseline", "from-scratch", "fusion", "other", "classical"]
CROSS_CORPUS_PREFIX = "cross-corpus-"
LEAVE_ONE_CORPUS_PREFIX = "corpus-"
CLIP_COLUMNS = (*TABLE_COLUMNS, "label")


@dataclass(frozen=True, eq=False)
class SystemRun:
    """One run of a system: its folder, the contents of its files, and its test predictions, a row per clip."""

    folder: RunFolder
    metrics: Mapping[str, Any]
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    test_predictions: pd.DataFrame
    custom_name: str | None = None

    @property
    def seeds(self) -> tuple[int, int]:
        """The seeds of the split and of the training. Each clip is tested once for each pair of them."""
        return int(self.metrics["split"]["seed"]), int(self.metrics["seed"])

    @property
    def uar(self) -> float:
        """The UAR on the test part of this run."""
        return float(self.metrics["parts"]["test"]["uar"])


@dataclass(frozen=True, eq=False)
class System:
    """Pooled runs that differ only in fold (or left-out corpus) and seed.

    `clips` has a row per test clip with `CLIP_COLUMNS`, sorted by id; `labels` are their class numbers. `probabilities`
    have shape (repetitions, N, C), one repetition for each pair of seeds. The name is unique on a leaderboard.
    """

    name: str
    kind: Kind
    runs: tuple[SystemRun, ...]
    clips: pd.DataFrame
    labels: Ints
    probabilities: Floats

    @property
    def model(self) -> str:
        """The name of the model in the runs."""
        return str(self.runs[0].metrics["model"])

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes, in the order of their numbers."""
        return tuple(self.runs[0].metrics["classes"])

    @property
    def leaking(self) -> Leaking:
        """Whether test speakers were seen in training."""
        leaking: Leaking = self.runs[0].metrics["split"]["leaking"]
        return leaking

    @property
    def split(self) -> str:
        """The name of the split, without the fold: "kfold"; "corpus" if each corpus is left out in turn."""
        return split_family(self.runs[0].metrics)

    @property
    def has_unknown_speakers(self) -> bool:
        """Whether the speaker of a clip is unknown, so that no statistics over speakers are possible."""
        return not all(map(is_known, self.clips["speaker"]))

    @property
    def is_model(self) -> bool:
        """Whether it is not one of the classical baselines that are fitted with every run."""
        return self.kind != "classical"

    @property
    def starts_from(self) -> str | None:
        """The weights that training started from, in words; None if no recipe trained it as one network."""
        weights = {"transfer": "pretrained", "baseline": "random", "from-scratch": "random"}.get(self.kind)
        return weights and f"{weights} weights"

    @cached_property
    def test_set(self) -> Hashable:
        """A key of the test set, equal for two systems that can be compared."""
        # The rows of a cross-corpus matrix are not compared with a split of another kind.
        cross_corpus = self.split if self.split.startswith(CROSS_CORPUS_PREFIX) else None
        return clips_fingerprint(self.clips), self.classes, self.leaking, cross_corpus

    @cached_property
    def predictions(self) -> Ints:
        """The most probable class of each clip, shape (repetitions, N)."""
        return np.asarray(self.probabilities.argmax(axis=2), dtype=np.int64)

    @cached_property
    def confusion(self) -> Ints:
        """Counts summed over the repetitions, shape (C, C): a row per label, a column per prediction."""
        size = len(self.classes)
        counts = [metrics.confusion_matrix(self.labels, row, size) for row in self.predictions]
        return np.asarray(np.sum(counts, axis=0), dtype=np.int64)

    @cached_property
    def scores(self) -> dict[str, Any]:
        """The pooled scores: means over the repetitions.

        uar, accuracy, macro_f1, ece, chance; low and high (of the UAR's confidence interval over speakers, from counts
        summed over the repetitions) or None; std_folds and std_seeds (standard deviation of the UAR), None for a single
        fold or seed; recall: class -> value, None if the class has no clips.
        """
        size, labels = len(self.classes), self.labels
        uars = [metrics.uar(labels, row, size) for row in self.predictions]
        interval = self.interval()
        support = self.confusion.sum(axis=1)
        folds: dict[frozenset[str], list[float]] = {}
        for run in self.runs:
            folds.setdefault(frozenset(run.test_predictions["id"]), []).append(run.uar)
        return {
            "uar": float(np.mean(uars)),
            "low": interval and interval.low,
            "high": interval and interval.high,
            "std_folds": _std([float(np.mean(values)) for values in folds.values()]),
            "std_seeds": _std(uars),
            "accuracy": float((self.predictions == labels).mean()),
            "macro_f1": float(np.mean([metrics.macro_f1(labels, row, size) for row in self.predictions])),
            "ece": float(np.mean([expected_calibration_error(labels, values) for values in self.probabilities])),
            "chance": 1 / int((support > 0).sum()),
            "recall": {
                name: float(self.confusion[number, number] / support[number]) if support[number] else None
                for number, name in enumerate(self.classes)
            },
        }

    def interval(self, rows: np.ndarray | None = None) -> ConfidenceInterval | None:
        """Estimate the confidence interval of the UAR over speakers, on some rows of the clips or on all.

        None if it would not be reliable (see `interval_from_counts`), or if a speaker is unknown.
        """
        selected = np.arange(len(self.labels)) if rows is None else rows
        speakers = self.clips["speaker"].iloc[selected]
        if not all(map(is_known, speakers)):
            return None
        names, predictions = speakers.to_numpy(dtype=str), self.predictions[:, selected]
        return interval_from_counts(*count_by_speaker(self.labels[selected], predictions, names, len(self.classes)))

    def scores_by(self, column: str) -> dict[str, dict[str, Any]]:
        """Return scores for each group in a column of the clips, such as "corpus", "gender" or "intensity".

        group -> clips, speakers, uar (over its classes), low, high, chance. Clips of an unknown group are not included.
        """
        scores = {}
        for group, mask in group_masks(self.clips[column].tolist(), column, len(self.labels)).items():
            rows = np.flatnonzero(mask)
            labels, interval = self.labels[rows], self.interval(rows)
            uars = [metrics.uar(labels, row, len(self.classes)) for row in self.predictions[:, rows]]
            scores[group] = {
                "clips": len(rows),
                "speakers": int(self.clips["speaker"].iloc[rows].nunique()),
                "uar": float(np.mean(uars)),
                "low": interval and interval.low,
                "high": interval and interval.high,
                "chance": 1 / len(np.unique(labels)),
            }
        return scores

    @cached_property
    def cost(self) -> dict[str, Any]:
        """The cost of the system; None for what the runs do not state.

        parameters; trained_parameters; seconds (training time, mean of the runs); cpu_seconds (the processor time of
        training on a CPU, which other work on the machine changes less than the elapsed time, mean of the runs);
        real_time_factor (seconds of computation per second of audio, one clip at a time, mean of the runs); machines
        (on which the runs were made).
        """
        environments = [run.environment for run in self.runs if run.environment]
        seconds = [float(item["seconds"]) for item in environments if item.get("seconds") is not None]
        cpu_seconds = [float(item["cpu_seconds"]) for item in environments if item.get("cpu_seconds") is not None]
        factors = [float(item["speed"]["real_time_factor"]) for item in environments if item.get("speed")]
        first = self.runs[0].metrics
        return {
            "parameters": first.get("parameters"),
            "trained_parameters": first.get("trained_parameters"),
            "seconds": float(np.mean(seconds)) if seconds else None,
            "cpu_seconds": float(np.mean(cpu_seconds)) if cpu_seconds else None,
            "real_time_factor": float(np.mean(factors)) if factors else None,
            "machines": tuple(sorted({machine_name(item) for item in environments})),
        }


@dataclass(frozen=True, eq=False)
class Leaderboard:
    """Systems that were tested on the same clips with the same classes, sorted by UAR, the best first."""

    systems: tuple[System, ...]

    @property
    def best(self) -> System:
        """The system with the highest UAR. Clips, classes, split and leaking are the same for all systems."""
        return self.systems[0]

    @property
    def models(self) -> tuple[System, ...]:
        """The systems that are not classical baselines."""
        return tuple(system for system in self.systems if system.is_model)

    @property
    def corpora(self) -> tuple[str, ...]:
        """The corpora of the clips."""
        return tuple(sorted(set(self.best.clips["corpus"])))

    @property
    def speakers(self) -> int:
        """The number of speakers in the clips."""
        return int(self.best.clips["speaker"].nunique())

    @property
    def is_cross_corpus(self) -> bool:
        """Whether its systems were trained on one corpus and tested on others too: a row of the cross-corpus matrix."""
        return self.best.split.startswith(CROSS_CORPUS_PREFIX)


def clips_fingerprint(clips: pd.DataFrame) -> str:
    """Return a hash of the ids and labels of clips that are sorted by id."""
    text = "\n".join(clips["id"] + "\t" + clips["label"])
    return hashlib.sha256(text.encode()).hexdigest()


def split_family(run_metrics: Mapping[str, Any]) -> str:
    """Return the name of the split in a metrics.json without its fold or its left-out corpus."""
    name = str(run_metrics["split"]["name"])
    return "corpus" if name.startswith(LEAVE_ONE_CORPUS_PREFIX) else name


def machine_name(environment: Mapping[str, Any]) -> str:
    """Return the machine in a run's environment.json: "cpu, x86_64, 2 cores, 1 thread, 2 runs at a time"."""
    device = str(environment.get("device", "unknown device"))
    name = f"{device}, {environment.get('processor', '?')}, {environment.get('cores', '?')} cores"
    threads, jobs = (environment.get("speed") or {}).get("threads"), environment.get("jobs", 1)
    name += f", {threads} thread{'s' if threads > 1 else ''}" if threads else ""
    return name + (f", {jobs} runs at a time" if jobs > 1 else "")


def _std(values: list[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
