"""What a trained model, and the baselines beside it, make of a run's clips: calibrated, written down, scored."""

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
from ..utils.progress import progress_bar
from .calibration import (
    abstention_metrics,
    apply_temperature,
    expected_calibration_error,
    fit_temperature,
    fit_threshold,
)
from .metrics import negative_log_likelihood
from .predict import corpus_notes_and_terms, masked_softmax, metrics_per_part, predictions_table
from .run_folder import RunFolder

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class Calibration:
    """What validation says of a system's answers.

    Attributes:
        temperature: that its logits are divided by. threshold: of the largest probability, once that is done: an answer
            under it is uncertain.
    """

    temperature: float
    threshold: float


@dataclass(frozen=True)
class SplitScorer:
    """Judges systems on the clips of a split.

    Attributes:
        table: the prepared table. split: of its clips. inputs: of the table, for the classes that are learned.
        seed: of the run.
    """

    table: datasets.Dataset
    split: Split
    inputs: ClipData
    seed: int

    @cached_property
    def rows(self) -> dict[str, np.ndarray]:
        """Part -> the rows that are judged: those whose class is learned."""
        return {part: rows[self.inputs.labels[rows] >= 0] for part, rows in self.split.row_indices(self.table).items()}

    @cached_property
    def excluded(self) -> dict[str, dict[str, int]]:
        """Part -> class -> how many of its clips are not judged, for no training clip is of that class."""
        names, emotions = self.table.features["emotion"].names, np.array(self.table["emotion"])
        return {
            part: dict(Counter(names[emotions[row]] for row in rows if self.inputs.labels[row] < 0))
            for part, rows in self.split.row_indices(self.table).items()
        }

    def fit_calibration(self, probabilities: Mapping[str, np.ndarray]) -> Calibration | None:
        """Fit on validation how far a system's answers can be trusted; None where there is no validation.

        Args:
            probabilities: part -> of its judged clips, shape (clips, classes).
        """
        held = self.rows["validation"]
        if not len(held):
            return None
        labels, shares = self.inputs.labels[held], probabilities["validation"]
        temperature = fit_temperature(labels, shares)
        return Calibration(temperature, fit_threshold(labels, apply_temperature(shares, temperature)))

    def write(
        self,
        folder: RunFolder,
        probabilities: Mapping[str, np.ndarray],
        trust: Calibration | None,
        **about_it: Any,
    ) -> None:
        """Write predictions.parquet and metrics.json of a system's calibrated answers.

        Args:
            folder: of the system. probabilities, trust: as above; the probabilities are not yet calibrated.
            about_it: what metrics.json says of the system: its name as `model`, its number of `parameters`.
        """
        rows, labels, classes = self.rows, self.inputs.labels, self.inputs.classes
        temperature = trust.temperature if trust else 1.0
        calibrated = {part: apply_temperature(shares, temperature) for part, shares in probabilities.items()}
        predictions = predictions_table(self.table, classes, rows, calibrated, self.split.fold, self.seed)
        fitted = None
        if trust is not None:
            parts = {
                part: {
                    "ece_before": expected_calibration_error(labels[rows[part]], shares),
                    "nll_before": negative_log_likelihood(labels[rows[part]], shares),
                    **abstention_metrics(labels[rows[part]], calibrated[part], trust.threshold),
                }
                for part, shares in probabilities.items()
            }
            fitted = {**asdict(trust), "clips": len(rows["validation"]), "parts": parts}
        content = {**self._facts(), **about_it, "calibration": fitted}
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.write_predictions(predictions)
        folder.write_json(
            folder.metrics_file, content | {"parts": metrics_per_part(predictions, classes, self.excluded)}
        )

    def fit_baselines(self, folder: RunFolder, names: list[str], numbers: np.ndarray, shown: bool) -> None:
        """Fit baselines on the training clips, and judge them beside the run.

        Args:
            folder: of the run. names: of the baselines. numbers: statistics of all clips, shape (clips, numbers).
            shown: show progress.
        """
        rows, labels = self.rows, self.inputs.labels
        train = rows["train"]
        for name in progress_bar(names, desc="baselines", shown=shown):
            baseline = make_classical(name)
            baseline.fit(numbers[train], labels[train], len(self.inputs.classes))
            shares = {}
            for part, places in rows.items():
                if len(places):
                    found = np.log(np.clip(baseline.probabilities(numbers[places]), 1e-12, 1.0))
                    shares[part] = masked_softmax(found, self.inputs.allowed[places])
            aside = RunFolder(folder.path / "baselines" / name)
            self.write(aside, shares, self.fit_calibration(shares), model=name, parameters=None)

    def _facts(self) -> dict[str, Any]:
        """Return what every metrics.json of the run says of data and split."""
        split = self.split
        return {
            "seed": self.seed,
            "classes": list(self.inputs.classes),
            "split": {"name": split.name, "fold": split.fold, "seed": split.seed, "leaking": split.leaking},
            **corpus_notes_and_terms(corpus_info(self.table)),
        }
