"""Evaluation of a fine-tuned model, trained by ser_ft or by anyone else, on a prepared table."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
import yaml
from accelerate import PartialState
from torch import nn

from ..data.prepare import corpus_info, is_synthetic, open_prepared
from ..data.splits import Split, read_split
from ..dataloading.batches import BatchSource, FrameBatches, WaveformBatches
from ..dataloading.cache import compute_frames
from ..dataloading.encoder_hooks import EncoderHooks
from ..dataloading.standardization import Standardizer
from ..dataloading.targets import allowed_classes
from ..models import resolve_model_path
from ..models.encoders import EncoderParts
from ..models.features import SpectralFeatureExtractor
from ..models.pretrained import PretrainedClassifier
from ..utils.accelerator import device_name
from ..utils.atomic import write_atomically
from ..utils.caches import cache_home
from ..utils.errors import InputError
from ..utils.files import output_lock
from ..utils.progress import progress_bar
from ..utils.text import print_text
from .class_mapping import ClassMapping
from .grouping import is_known
from .latency import real_time_factor
from .predict import corpus_notes_and_terms, metrics_per_part, predict, predictions_table
from .provenance import is_pseudonym, speakers_seen_in_training, training_runs
from .run_folder import RunFolder, find_model_folder, new_run_folder

if TYPE_CHECKING:
    import datasets

COMMAND = "evaluate"
_LEARNING_PARTS = ("train", "validation")


def evaluate(
    model: str | Path,
    data: str | Path,
    out: str | Path | None = None,
    *,
    mapping: Mapping[str, str] | None = None,
    include_seen_speakers: bool = False,
    allow_pickle: bool = False,
    overwrite: bool = False,
    verbose: bool = True,
) -> RunFolder:
    """Evaluate a model on the clips of a prepared table, and write the result as a run folder.

    Clips of classes that the model does not know are excluded, and the model never predicts a class that the data, or
    the clip's corpus, do not contain. If the model comes from a ser_ft run, the speakers that it was trained or
    validated on are excluded too.

    Args:
        model: a run folder, a folder with a saved classifier, its name on the Hub, "shipped" or "small".
        data: a table written by `ser-ft prepare`.
        out: the folder to write. By default evaluations/NAME-on-DATA.
        mapping: the model's class -> the data's class, for names that do not match by themselves. The probabilities of
            several model classes that correspond to one class are added.
        include_seen_speakers: also evaluate on speakers that the model was trained or validated on. The result is then
            marked as leaking.
        allow_pickle: also load pickled weights.
        overwrite: replace an earlier evaluation in that folder.
        verbose: print what is excluded, and show progress.

    Returns:
        The run folder, without model and checkpoints. All clips belong to the part "test".

    Raises:
        InputError: the model or the data cannot be loaded, they share fewer than two classes, no clip is left, or the
            folder is in use.
    """
    cache_home()  # frames of a model of ser_ft are cached
    folder = find_model_folder(Path(resolve_model_path(str(model))).expanduser())
    run = next(training_runs(folder), None) if folder else None
    data_name = Path(data).expanduser().resolve().name
    out = out or Path("evaluations") / f"{_short_name(str(model), run)}-on-{data_name}"
    with output_lock(out):
        table = open_prepared(data)
        output = new_run_folder(out, COMMAND, overwrite)
        evaluated = EvaluatedModel(PretrainedClassifier.load(str(folder or model), allow_pickle), run)
        classifier = evaluated.classifier
        mapped = ClassMapping.match(classifier.classes, table.features["emotion"].names, mapping or {})
        clips = EvaluationSet.select(
            table, mapped, evaluated.seen_speakers(synthetic=is_synthetic(table)), include_seen_speakers
        )
        if verbose:
            print_text("\n".join((f"{evaluated.display_name} on {data_name}", *clips.summary_lines())))
        clips.check_not_empty()
        device = PartialState().device
        probabilities = _predict(classifier, clips, device, verbose)
        speed = real_time_factor(classifier.model, classifier.extractor, table.select(clips.rows), device)
        settings = {
            "model": str(model),
            "data": str(data),
            "map": dict(mapping or {}),
            "include_seen_speakers": include_seen_speakers,
        }
        _write(
            output,
            settings,
            evaluated,
            clips,
            probabilities,
            data_name,
            {"device": device_name(PartialState()), "speed": speed},
        )
        return output


@dataclass(frozen=True)
class EvaluatedModel:
    """A classifier and the run that trained it, None if that is not known."""

    classifier: PretrainedClassifier
    run: RunFolder | None

    @property
    def display_name(self) -> str:
        """Its name in tables: that in the run's metrics.json if there is one."""
        if self.run is not None and self.run.metrics_file.is_file():
            return str(self.run.metrics["model"])
        return self.classifier.display_name

    @property
    def config(self) -> dict[str, Any]:
        """The sections of config.yaml that describe the model, and the seed it was trained with."""
        if self.run is None:
            return {"model": {"name": self.classifier.name}, "seed": 0}
        return {key: self.run.config[key] for key in ("model", "seed")}

    def seen_speakers(self, synthetic: bool | None = None) -> set[str]:
        """Return the speakers it was trained or validated on."""
        if self.run is None:
            return set()
        return speakers_seen_in_training(self.classifier.name, _LEARNING_PARTS, synthetic)


@dataclass(frozen=True)
class EvaluationSet:
    """The clips of a table that a model is evaluated on, and those that are excluded.

    `rows` are the evaluated clips. `excluded` is class -> number of clips of a class that the model does not know.
    `seen_rows` are the clips, of shared classes, of speakers that the model was trained or validated on; they are
    evaluated too if `include_seen_speakers` is set.
    """

    table: datasets.Dataset
    mapping: ClassMapping
    rows: np.ndarray
    excluded: Mapping[str, int]
    seen_rows: np.ndarray
    include_seen_speakers: bool

    @classmethod
    def select(
        cls, table: datasets.Dataset, mapping: ClassMapping, seen_speakers: set[str], include_seen_speakers: bool
    ) -> EvaluationSet:
        """Select the clips of a table whose class is shared and, unless they are included, whose speaker is unseen."""
        names = table.features["emotion"].names
        labels = [names[number] for number in table["emotion"]]
        shared = np.array([label in mapping.classes for label in labels])
        seen = np.array([speaker in seen_speakers for speaker in table["speaker"]])
        selected = np.ones(len(table), dtype=bool) if include_seen_speakers else ~seen
        counts = Counter(label for label, unknown in zip(labels, selected & ~shared, strict=True) if unknown)
        excluded = {name: counts[name] for name in names if counts[name]}
        rows, seen_rows = np.flatnonzero(selected & shared), np.flatnonzero(seen & shared)
        return cls(table, mapping, rows, excluded, seen_rows, include_seen_speakers)

    @property
    def leaking(self) -> bool:
        """Whether a clip of a seen speaker is evaluated."""
        return self.include_seen_speakers and len(self.seen_rows) > 0

    @property
    def num_seen_speakers(self) -> int:
        """The number of speakers of `seen_rows`."""
        return len(set(self.table.select(self.seen_rows)["speaker"]))

    @property
    def corpora(self) -> list[str]:
        """The corpus of each evaluated clip."""
        return list(self.table.select_columns(["corpus"]).select(self.rows)["corpus"])

    def check_not_empty(self) -> None:
        """Raise an `InputError` if no clip is left."""
        if len(self.rows):
            return
        if len(self.seen_rows):
            raise InputError(
                "the model was trained or validated on the speakers of all clips: no clip is left to evaluate it on; "
                "--include-seen-speakers includes them and marks the result as leaking"
            )
        raise InputError(f"the data contain no clip of a class that the model knows: {', '.join(self.mapping.classes)}")

    def summary_lines(self) -> list[str]:
        """Return lines for the terminal: how many clips are evaluated, and which are excluded."""
        matches = self.mapping.as_dict()
        renamed = [f"{name} for {target}" for name, target in matches.items() if target not in (None, name)]
        unmatched = [name for name, target in matches.items() if target is None]
        lines = [f"  clips: {len(self.rows)}, classes: {', '.join(self.mapping.classes)}"]
        if renamed:
            lines.append(f"  the model's names: {', '.join(renamed)}")
        if unmatched:
            lines.append(f"  never predicted, because the data have no such class: {', '.join(unmatched)}")
        if self.excluded:
            counts = ", ".join(f"{count} {name}" for name, count in self.excluded.items())
            lines.append(f"  excluded, because the model does not know their class: {counts}")
        if len(self.seen_rows):
            seen = f"{len(self.seen_rows)} clips of {self.num_seen_speakers} speakers that the model was trained on"
            if self.include_seen_speakers:
                lines.append(f"  LEAKING: includes {seen} or validated on")
            else:
                lines.append(f"  excluded: {seen} or validated on (--include-seen-speakers includes them)")
        return lines


def _short_name(model: str, run: RunFolder | None) -> str:
    """Return a model's name for the name of a folder. A sweep's fold0-seed0 is preceded by the sweep's name."""
    folder = run.path.resolve() if run else Path(model)
    in_sweep = run is not None and re.fullmatch(r".+-seed\d+", folder.name)
    return f"{folder.parent.name}-{folder.name}" if in_sweep else folder.name


def _predict(classifier: PretrainedClassifier, clips: EvaluationSet, device: torch.device, show: bool) -> np.ndarray:
    batches, mapping = classifier_batches(classifier, clips.table, show), clips.mapping
    allowed = allowed_classes(clips.corpora, corpus_info(clips.table), mapping.classes)
    hooks = None if classifier.is_own_network else EncoderHooks(EncoderParts.of(classifier.model))
    cast(nn.Module, classifier.model).to(device)
    with progress_bar(total=len(clips.rows), desc="predictions", unit=" clips", show_progress=show) as progress:

        def collate(rows: Sequence[int]) -> Mapping[str, Any]:
            progress.update(len(rows))
            return batches.collate(rows)

        probabilities = predict(
            classifier.model,
            collate,
            clips.rows,
            batches.lengths,
            mapping.allowed_model_classes(allowed),
            equal_lengths=batches.requires_equal_lengths,
            name=classifier.name,
        )
    if hooks is not None:
        hooks.remove()
    return mapping.merge_probabilities(probabilities)


def classifier_batches(classifier: PretrainedClassifier, table: datasets.Dataset, show: bool) -> BatchSource:
    """Return the batches of a table for a saved classifier."""
    extractor = classifier.extractor
    if not isinstance(extractor, SpectralFeatureExtractor):
        return WaveformBatches(table, extractor, EncoderParts.of(classifier.model).input_spec)
    frames = compute_frames(table, extractor, show)
    if extractor.normalize == "training":
        groups = np.zeros(len(table), dtype=np.int64)
        shift, scale = (np.array([values], dtype=np.float32) for values in (extractor.mean, extractor.scale))
        standardizer: Standardizer | None = Standardizer(shift, scale, groups)
    else:
        standardizer = Standardizer.fit(extractor, frames, table["speaker"], np.arange(len(table)))
    return FrameBatches(frames, np.array(table["duration"]), extractor, standardizer)


def _write(
    output: RunFolder,
    settings: Mapping[str, Any],
    evaluated: EvaluatedModel,
    clips: EvaluationSet,
    probabilities: np.ndarray,
    data_name: str,
    environment: Mapping[str, Any],
) -> None:
    config, classes = {COMMAND: settings, **evaluated.config}, clips.mapping.classes
    predictions = predictions_table(
        clips.table, classes, {"test": clips.rows}, {"test": probabilities}, None, config["seed"]
    )
    warning = _seen_speakers_warning(evaluated, clips)
    present = set(clips.corpora)
    corpora = corpus_notes_and_terms({name: info for name, info in corpus_info(clips.table).items() if name in present})
    notes = corpora["notes"] | ({evaluated.display_name: warning} if warning else {})
    seen = {"clips": len(clips.seen_rows), "speakers": clips.num_seen_speakers, "evaluated": clips.leaking}
    split_name = f"evaluated-on-{data_name}"
    metrics = {
        "model": evaluated.display_name,
        "parameters": sum(parameter.numel() for parameter in evaluated.classifier.model.parameters()),
        "seed": config["seed"],
        "classes": list(classes),
        "split": {"name": split_name, "fold": None, "seed": 0, "leaking": clips.leaking},
        "seen": None if warning else seen,
        "class_mapping": clips.mapping.as_dict(),
        "calibration": None,
        **corpora | {"notes": notes},
        "parts": metrics_per_part(predictions, classes, {"test": clips.excluded}),
    }
    with write_atomically(output.path) as partial:
        new = RunFolder(partial)
        new.write_text(new.config_file, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
        new.write_environment(**environment)
        if split := _split(evaluated.run, clips, split_name):
            new.write_json(new.split_file, split.to_dict())
        new.write_predictions(predictions)
        new.write_json(new.metrics_file, metrics)


def _seen_speakers_warning(evaluated: EvaluatedModel, clips: EvaluationSet) -> str | None:
    """Return why the model may have seen the evaluated speakers; None if it cannot have seen them."""
    if evaluated.run is None:
        return "training unknown: the model's training data are not known; it may have seen these speakers"
    seen = evaluated.seen_speakers()
    named = all(map(is_known, [*seen, *clips.table.select(clips.rows)["speaker"]]))
    if named and not any(map(is_pseudonym, seen)):
        return None
    return "speakers unknown: some speakers have no name; the model may have seen the evaluated speakers"


def _split(run: RunFolder | None, clips: EvaluationSet, name: str) -> Split | None:
    """Return the run's split with the evaluated clips as test part; None if it is not known or leaks."""
    split = read_split(run.split_file) if run else None
    if split is None or split.leaking or clips.leaking:
        return None
    evaluated = clips.table.select_columns(["id", "speaker"]).select(clips.rows)
    parts = {**split.parts, "test": tuple(evaluated["id"])}
    speakers = {**split.speakers, "test": tuple(sorted(set(evaluated["speaker"])))}
    return Split(name, 0, None, False, parts, speakers)
