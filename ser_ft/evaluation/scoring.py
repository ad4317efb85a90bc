"""Scores of a trained model and its baselines on the clips of one split: calibrate, write, and evaluate predictions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.prepare import corpus_info
from ..data.splits import Split
from ..dataloading.targets import ClipData
from ..models.classical import make_classical
from ..models.outputs import NotFiniteError, to_probabilities
from ..utils.progress import progress_bar
from .calibration import (
    abstention_metrics,
    apply_temperature,
    expected_calibration_error,
    fit_temperature,
    fit_threshold,
)
from .metrics import negative_log_likelihood
from .predict import corpus_notes_and_terms, metrics_per_part, predictions_table
from .run_folder import RunFolder

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class Calibration:
    """A model's divisor of the logits, and the smallest calibrated probability of a certain prediction."""

    temperature: float
    threshold: float


@dataclass(frozen=True)
class SplitScorer:
    """Writes the calibrated predictions and the metrics of systems on one split.

    `inputs` are the clips of the table, with labels for the classes of the model. Below, `probabilities` are
    uncalibrated: part -> shape (evaluated clips, classes).
    """

    table: datasets.Dataset
    split: Split
    inputs: ClipData
    seed: int

    @cached_property
    def rows(self) -> dict[str, np.ndarray]:
        """Part -> rows of its evaluated clips: those of the model's classes."""
        return {part: rows[self.inputs.labels[rows] >= 0] for part, rows in self.split.row_indices(self.table).items()}

    @cached_property
    def excluded(self) -> dict[str, dict[str, int]]:
        """Part -> class -> number of clips that are not evaluated because no training clip is of their class."""
        names, emotions = self.table.features["emotion"].names, np.array(self.table["emotion"])
        return {
            part: dict(Counter(names[emotions[row]] for row in rows if self.inputs.labels[row] < 0))
            for part, rows in self.split.row_indices(self.table).items()
        }

    def fit_calibration(self, probabilities: Mapping[str, np.ndarray]) -> Calibration | None:
        """Fit temperature and threshold on the validation part; None if it is empty."""
        rows = self.rows["validation"]
        if not len(rows):
            return None
        labels = self.inputs.labels[rows]
        temperature = fit_temperature(labels, probabilities["validation"])
        calibrated = apply_temperature(probabilities["validation"], temperature)
        return Calibration(temperature, fit_threshold(labels, calibrated))

    def write(
        self,
        folder: RunFolder,
        probabilities: Mapping[str, np.ndarray],
        calibration: Calibration | None,
        **description: Any,
    ) -> None:
        """Write predictions.parquet and metrics.json of a system.

        `description` are further entries of metrics.json, such as `model` and the number of `parameters`.
        """
        labels, classes, split = self.inputs.labels, self.inputs.classes, self.split
        temperature = calibration.temperature if calibration else 1.0
        calibrated = {part: apply_temperature(values, temperature) for part, values in probabilities.items()}
        predictions = predictions_table(self.table, classes, self.rows, calibrated, split.fold, self.seed)
        calibration_metrics = None
        if calibration is not None:
            parts = {
                part: {
                    "ece_before": expected_calibration_error(labels[self.rows[part]], values),
                    "nll_before": negative_log_likelihood(labels[self.rows[part]], values),
                    **abstention_metrics(labels[self.rows[part]], calibrated[part], calibration.threshold),
                }
                for part, values in probabilities.items()
            }
            calibration_metrics = {**asdict(calibration), "clips": len(self.rows["validation"]), "parts": parts}
        metrics = {
            "seed": self.seed,
            "classes": list(classes),
            "split": {"name": split.name, "fold": split.fold, "seed": split.seed, "leaking": split.leaking},
            **corpus_notes_and_terms(corpus_info(self.table)),
            **description,
            "calibration": calibration_metrics,
            "parts": metrics_per_part(predictions, classes, self.excluded),
        }
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.write_predictions(predictions)
        folder.write_json(folder.metrics_file, metrics)

    def fit_baselines(self, folder: RunFolder, names: list[str], statistics: np.ndarray, show: bool) -> None:
        """Fit classical baselines on the training clips, and write their results below the run folder.

        `statistics` are feature statistics of all clips, shape (clips, features).
        """
        rows, labels = self.rows, self.inputs.labels
        train = rows["train"]
        if not np.isfinite(statistics).all():
            raise NotFiniteError("the baselines cannot be fitted: statistics of some clips are not finite numbers")
        for name in progress_bar(names, desc="baselines", show_progress=show):
            baseline = make_classical(name)
            baseline.fit(statistics[train], labels[train], len(self.inputs.classes))
            probabilities = {}
            for part, part_rows in rows.items():
                if len(part_rows):
                    logits = np.log(np.clip(baseline.predict_proba(statistics[part_rows]), 1e-12, 1.0))
                    allowed = self.inputs.allowed[part_rows]
                    probabilities[part] = to_probabilities(logits, allowed.shape, allowed, f"the baseline {name}")
            output = RunFolder(folder.path / "baselines" / name)
            self.write(output, probabilities, self.fit_calibration(probabilities), model=name, parameters=None)
