"""What a trained model, and the yardsticks beside it, make of a run's clips: calibrated, written down, scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.prepare import about
from ..data.splits import Split
from ..models.yardsticks import make_yardstick
from ..progress import bar
from ..results.calibration import expected_calibration_error, fit_temperature, tempered
from ..results.evaluation import masked_softmax, notes_and_terms, part_metrics, predictions_table
from ..results.metrics import negative_log_likelihood
from ..results.runs import RunFolder
from .inputs import Inputs

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class Judge:
    """Judges systems on the clips of a split.

    Attributes:
        table: the prepared table. split: of its clips. inputs: of the table, for the classes that are learned.
        seed: of the run.
    """

    table: datasets.Dataset
    split: Split
    inputs: Inputs
    seed: int

    @cached_property
    def rows(self) -> dict[str, np.ndarray]:
        """Part -> the rows that are judged: those whose class is learned."""
        return {part: rows[self.inputs.labels[rows] >= 0] for part, rows in self.split.rows(self.table).items()}

    @cached_property
    def left_out(self) -> dict[str, dict[str, int]]:
        """Part -> class -> how many of its clips are not judged, for no training clip is of that class."""
        names, emotions = self.table.features["emotion"].names, np.array(self.table["emotion"])
        return {
            part: dict(Counter(names[emotions[row]] for row in rows if self.inputs.labels[row] < 0))
            for part, rows in self.split.rows(self.table).items()
        }

    def temperature(self, probabilities: Mapping[str, np.ndarray]) -> float | None:
        """Fit the temperature of a system's answers on validation; None where there is none.

        Args:
            probabilities: part -> of its judged clips, shape (clips, classes).
        """
        held = self.rows["validation"]
        return fit_temperature(self.inputs.labels[held], probabilities["validation"]) if len(held) else None

    def write(
        self,
        folder: RunFolder,
        probabilities: Mapping[str, np.ndarray],
        temperature: float | None,
        **about_it: Any,
    ) -> None:
        """Write predictions.parquet and metrics.json of a system's calibrated answers.

        Args:
            folder: of the system. probabilities, temperature: as above; the probabilities are not yet calibrated.
            about_it: what metrics.json says of the system: its name as `model`, its number of `parameters`.
        """
        rows, labels, classes = self.rows, self.inputs.labels, self.inputs.classes
        calibrated = {part: tempered(shares, temperature or 1.0) for part, shares in probabilities.items()}
        predictions = predictions_table(self.table, classes, rows, calibrated, self.split.fold, self.seed)
        before = {
            part: {
                "ece_before": expected_calibration_error(labels[rows[part]], shares),
                "nll_before": negative_log_likelihood(labels[rows[part]], shares),
            }
            for part, shares in probabilities.items()
        }
        fitted = {"temperature": temperature, "clips": len(rows["validation"]), "parts": before}
        content = {**self._facts(), **about_it, "calibration": fitted if temperature is not None else None}
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.write_predictions(predictions)
        folder.write_json(folder.metrics_file, content | {"parts": part_metrics(predictions, classes, self.left_out)})

    def fit_yardsticks(self, folder: RunFolder, names: list[str], numbers: np.ndarray, shown: bool) -> None:
        """Fit yardsticks on the training clips, and judge them beside the run.

        Args:
            folder: of the run. names: of the yardsticks. numbers: statistics of all clips, shape (clips, numbers).
            shown: show progress.
        """
        rows, labels = self.rows, self.inputs.labels
        train = rows["train"]
        for name in bar(names, desc="yardsticks", shown=shown):
            yardstick = make_yardstick(name)
            yardstick.fit(numbers[train], labels[train], len(self.inputs.classes))
            shares = {}
            for part, places in rows.items():
                if len(places):
                    found = np.log(np.clip(yardstick.probabilities(numbers[places]), 1e-12, 1.0))
                    shares[part] = masked_softmax(found, self.inputs.allowed[places])
            aside = RunFolder(folder.path / "yardsticks" / name)
            self.write(aside, shares, self.temperature(shares), model=name, parameters=None)

    def _facts(self) -> dict[str, Any]:
        """Return what every metrics.json of the run says of data and split."""
        split = self.split
        return {
            "seed": self.seed,
            "classes": list(self.inputs.classes),
            "split": {"name": split.name, "fold": split.fold, "seed": split.seed, "leaking": split.leaking},
            **notes_and_terms(about(self.table)),
        }
