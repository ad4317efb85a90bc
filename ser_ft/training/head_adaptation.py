"""`ser-ft adapt`: the last layer of a trained classifier, fitted to a few labelled clips, and the gain of that.

The new weights are those of a logistic regression whose prior is centered on the weights of the model, so that few
clips change little. How much they may change, the variance of the prior, is chosen by cross-validation over speakers.
The expected gain is measured by another cross-validation around it: a speaker's clips are tested on what was fitted and
chosen without them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
import yaml
from accelerate import PartialState
from torch import nn

from ..data.prepare import corpus_info, is_synthetic, open_prepared
from ..data.splits import Split
from ..dataloading.encoder_hooks import EncoderHooks
from ..dataloading.targets import allowed_classes
from ..evaluation.calibration import apply_temperature, fit_temperature, fit_threshold
from ..evaluation.class_mapping import ClassMapping
from ..evaluation.confidence_intervals import ConfidenceInterval
from ..evaluation.evaluate import EvaluatedModel, EvaluationSet, classifier_batches
from ..evaluation.metrics import negative_log_likelihood, uar, uar_confidence_interval
from ..evaluation.probe import fit_logistic_regression
from ..evaluation.provenance import training_runs
from ..evaluation.run_folder import RunFolder, find_model_folder, new_run_folder
from ..evaluation.scoring import Calibration
from ..evaluation.significance import PairedComparison, compare_paired
from ..models import resolve_model_path
from ..models.encoders import EncoderParts
from ..models.outputs import to_probabilities
from ..models.pretrained import PretrainedClassifier, last_linear_layer
from ..utils.atomic import write_atomically
from ..utils.caches import cache_home
from ..utils.errors import InputError
from ..utils.files import output_lock
from ..utils.progress import progress_bar
from ..utils.text import print_text
from .model import save_model

COMMAND = "adapt"
_VARIANCES = (0.01, 0.1, 1.0)
_MAX_FOLDS, _INNER_FOLDS = 10, 3
_MIN_CLIPS = 10


@dataclass(frozen=True)
class AdaptationResult:
    """What `adapt_head` has done, and what it is worth for further speakers.

    Attributes:
        clips, speakers: number of clips that the head was fitted to, and of their speakers.
        variance: variance of the prior of a clip's logits, which was chosen.
        before, after: UAR of the model as it came, and adapted without the speaker's own clips. None for one speaker,
            as are the following.
        before_interval, after_interval: their confidence intervals over speakers; None for few speakers.
        comparison: the difference, after minus before.
    """

    folder: RunFolder
    clips: int
    speakers: int
    variance: float
    before: float | None
    after: float | None
    before_interval: ConfidenceInterval | None
    after_interval: ConfidenceInterval | None
    comparison: PairedComparison | None


def adapt_head(
    model: str | Path,
    data: str | Path,
    out: str | Path | None = None,
    *,
    allow_pickle: bool = False,
    overwrite: bool = False,
    verbose: bool = True,
) -> AdaptationResult:
    """Fit the last layer of a classifier to the labelled clips of a prepared table, and write a new model.

    Clips of classes that the model does not know, and of speakers that it was trained on, are left out.

    Args:
        model: a run folder, a folder with a saved classifier, its name on the Hub, "shipped" or "small".
        data: a table written by `ser-ft prepare`, with clips of several speakers and of all emotions of interest.
        out: the folder to write. By default runs/adapted-to-DATA.
        allow_pickle: also load pickled weights.
        overwrite: replace an earlier output of this function in that folder.
        verbose: print which clips are left out, and show progress.

    Raises:
        InputError: the model or the data cannot be loaded, they share fewer than two classes, several classes of the
            model match one of the data, there are fewer than 10 clips, or the folder is in use.
    """
    cache_home()  # frames of a model of ser_ft are cached
    data_name = Path(data).expanduser().resolve().name
    out = out or Path("runs") / f"adapted-to-{data_name}"
    with output_lock(out):
        output = new_run_folder(out, COMMAND, overwrite)
        folder = find_model_folder(Path(resolve_model_path(str(model))).expanduser())
        classifier = PretrainedClassifier.load(str(folder or model), allow_pickle)
        clips = _select(EvaluatedModel(classifier, next(training_runs(folder), None) if folder else None), data)
        if verbose:
            print_text("\n".join((f"{classifier.display_name} on {data_name}", *clips.summary_lines())))
        problem = _Problem.compute(classifier, clips, verbose)
        result, calibration = _cross_validate(problem, output, verbose)
        _add_to_weights(last_linear_layer(classifier.model), problem.fit(problem.rows, result.variance))
        split = Split(
            f"adapted-to-{data_name}",
            0,
            None,
            False,
            {"train": tuple(clips.table.select(clips.rows)["id"]), "validation": (), "test": ()},
            {"train": tuple(sorted(set(problem.speakers))), "validation": (), "test": ()},
        )
        with write_atomically(output.path) as partial:
            new = RunFolder(partial)
            save_model(classifier.model, classifier.extractor, calibration, new)
            settings = {COMMAND: {"model": str(model), "data": str(data)}, "model": {"name": str(model)}, "seed": 0}
            new.write_text(new.config_file, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
            new.write_environment()
            new.write_json(new.split_file, split.to_dict())
            figures = {key: value for key, value in asdict(result).items() if key != "folder"}
            new.write_json(partial / "adaptation.json", figures)
        return result


def _select(evaluated: EvaluatedModel, data: str | Path) -> EvaluationSet:
    table, classes = open_prepared(data), evaluated.classifier.classes
    mapping = ClassMapping.match(classes, table.features["emotion"].names, {})
    known = mapping.indices[mapping.indices >= 0].tolist()
    if len(set(known)) < len(known):
        raise InputError(
            f"several classes of the model ({', '.join(classes)}) match one class of the data: prepare the data with "
            "the labels of the model"
        )
    clips = EvaluationSet.select(table, mapping, evaluated.seen_speakers(synthetic=is_synthetic(table)), False)
    clips.check_not_empty()
    if len(clips.rows) < _MIN_CLIPS:
        raise InputError(f"{data}: {len(clips.rows)} clips are left, and at least {_MIN_CLIPS} are needed: add some")
    return clips


@dataclass(frozen=True)
class _Problem:
    """The inputs of the last layer for some clips, shape (clips, size), and the model's logits, (clips, classes)."""

    inputs: np.ndarray
    logits: np.ndarray
    labels: np.ndarray
    allowed: np.ndarray
    speakers: np.ndarray

    @classmethod
    def compute(cls, classifier: PretrainedClassifier, clips: EvaluationSet, show: bool) -> _Problem:
        """Pass the clips through the model, one by one."""
        mapping, device = clips.mapping, PartialState().device
        allowed = allowed_classes(clips.corpora, corpus_info(clips.table), mapping.classes)
        batches = classifier_batches(classifier, clips.table, show)
        hooks = None if classifier.is_own_network else EncoderHooks(EncoderParts.of(classifier.model))
        network = cast(nn.Module, classifier.model).to(device)
        inputs: list[np.ndarray] = []
        logits: list[np.ndarray] = []
        handle = last_linear_layer(network).register_forward_pre_hook(
            lambda _, args: inputs.append(args[0].float().cpu().numpy())
        )
        for row in progress_bar(clips.rows.tolist(), desc="clips", unit=" clips", show_progress=show):
            batch = {name: value.to(device) for name, value in batches.collate([row]).items()}
            with torch.inference_mode():
                logits.append(network(**batch).logits.float().cpu().numpy())
        handle.remove()
        if hooks is not None:
            hooks.remove()
        table = clips.table.select_columns(["emotion", "speaker"]).select(clips.rows)
        names = clips.table.features["emotion"].names
        numbers = {mapping.classes[target]: number for number, target in enumerate(mapping.indices) if target >= 0}
        labels = np.array([numbers[names[label]] for label in table["emotion"]])
        speakers = np.array(table["speaker"])
        return cls(
            np.concatenate(inputs), np.concatenate(logits), labels, mapping.allowed_model_classes(allowed), speakers
        )

    @property
    def rows(self) -> np.ndarray:
        """All rows."""
        return np.arange(len(self.labels))

    def fit(self, rows: np.ndarray, variance: float) -> np.ndarray:
        """Return what is added to weights, and in the last row to biases, shape (size + 1, classes)."""
        values = self.inputs[rows]
        mean, scale = values.mean(axis=0), values.std(axis=0)
        scale[scale <= 1e-3 * scale.max()] = np.inf
        # Nothing is learned about classes without clips.
        allowed = self.allowed[rows] & np.isin(np.arange(self.logits.shape[1]), self.labels[rows])
        standardized = ((values - mean) / scale).astype(np.float32)
        change = fit_logistic_regression(standardized, self.labels[rows], allowed, self.logits[rows], variance)
        change[:-1] /= scale[:, None]
        change[-1] -= mean @ change[:-1]
        return change

    def probabilities(self, rows: np.ndarray, change: np.ndarray | None = None) -> np.ndarray:
        """Return the probabilities of the model, changed or as it came."""
        logits = self.logits[rows]
        if change is not None:
            logits = logits + self.inputs[rows] @ change[:-1] + change[-1]
        return to_probabilities(logits, logits.shape, self.allowed[rows])

    def folds(self, rows: np.ndarray, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield training and test rows of folds by speaker, or by clip if there is only one speaker."""
        groups = self.speakers[rows] if len(set(self.speakers[rows])) > 1 else rows
        names = np.random.default_rng(0).permutation(np.unique(groups))
        for fold in range(min(count, len(names))):
            is_test = np.isin(groups, names[fold::count])
            yield rows[~is_test], rows[is_test]

    def choose_variance(self, rows: np.ndarray) -> float:
        """Return the variance with the highest likelihood of the clips of unseen speakers."""
        folds = list(self.folds(rows, _INNER_FOLDS))

        def loss(variance: float) -> float:
            pairs = [(test, self.probabilities(test, self.fit(train, variance))) for train, test in folds]
            labels = np.concatenate([self.labels[test] for test, _ in pairs])
            return negative_log_likelihood(labels, np.concatenate([values for _, values in pairs]))

        return min(_VARIANCES, key=loss)


def _cross_validate(problem: _Problem, output: RunFolder, show: bool) -> tuple[AdaptationResult, Calibration]:
    """Choose the variance, measure the gain for unseen speakers, and calibrate on the predictions for them."""
    labels, classes = problem.labels, problem.logits.shape[1]
    probabilities = np.zeros_like(problem.logits, dtype=np.float64)
    folds = list(problem.folds(problem.rows, _MAX_FOLDS))
    for train, test in progress_bar(folds, desc="cross-validation", unit=" folds", show_progress=show):
        probabilities[test] = problem.probabilities(test, problem.fit(train, problem.choose_variance(train)))
    temperature = fit_temperature(labels, probabilities)
    calibration = Calibration(temperature, fit_threshold(labels, apply_temperature(probabilities, temperature)))
    variance, speakers = problem.choose_variance(problem.rows), problem.speakers.tolist()
    numbers = len(labels), len(set(speakers)), variance
    if len(set(speakers)) < 2:
        return AdaptationResult(output, *numbers, None, None, None, None, None), calibration
    before, after = (values.argmax(axis=1) for values in (problem.probabilities(problem.rows), probabilities))
    result = AdaptationResult(
        output,
        *numbers,
        uar(labels, before, classes),
        uar(labels, after, classes),
        uar_confidence_interval(labels, before, speakers, classes),
        uar_confidence_interval(labels, after, speakers, classes),
        compare_paired(labels, after, before, speakers, classes),
    )
    return result, calibration


def _add_to_weights(layer: nn.Linear, change: np.ndarray) -> None:
    with torch.no_grad():
        layer.weight.add_(torch.from_numpy(change[:-1].T).to(layer.weight))
        layer.bias.add_(torch.from_numpy(change[-1]).to(layer.bias))


def describe(result: AdaptationResult) -> str:
    """Return the result in a few lines: what to expect for further speakers, and whether it helps."""
    clips = f"fitted to {result.clips} clips of {result.speakers} speaker{'s' if result.speakers > 1 else ''}"
    lines = [f"{clips}: {result.folder.path}"]
    if result.before is None or result.after is None or result.comparison is None:
        lines.append("The UAR to expect for further speakers is unknown: clips of several speakers are needed.")
        return "\n".join(lines)
    for title, value, interval in (
        ("as it came", result.before, result.before_interval),
        ("adapted", result.after, result.after_interval),
    ):
        text = f" ({interval.low:.3f} to {interval.high:.3f})" if interval else ""
        lines.append(f"UAR expected for further speakers, {title}: {value:.3f}{text}")
    difference, low = result.comparison.difference, result.comparison.low
    if difference <= 0:
        verdict = "It does not help: keep the model as it came."
    elif low is None or low <= 0:
        verdict = "The gain may be chance: test both with more speakers."
    else:
        verdict = "It helps."
    extent = "" if low is None else f" ({low:+.3f} to {result.comparison.high:+.3f})"
    return "\n".join([*lines, f"Difference: {difference:+.3f}{extent}. {verdict}"])
