"""A model that was fine-tuned before, by ser_ft or by anyone, judged on a prepared table."""

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
from ..labels import canonical_name
from ..models import resolve_model_path
from ..models.encoders import EncoderParts
from ..models.features import SpectralFeatureExtractor
from ..models.pretrained import PretrainedClassifier
from ..utils.accelerator import device_name
from ..utils.errors import InputError
from ..utils.files import remove_folder
from ..utils.progress import progress_bar
from .grouping import is_known
from .latency import real_time_factor
from .predict import corpus_notes_and_terms, metrics_per_part, predict, predictions_table
from .provenance import is_pseudonym, speakers_seen_in_training, training_runs
from .run_folder import RunFolder, find_model_folder, to_write

if TYPE_CHECKING:
    import datasets

COMMAND = "evaluate"
_UNKNOWN = "training unknown: nothing says what the model was trained on, and it may have heard these speakers"
_NAMELESS = "speakers unknown: not all have names, and the model may have heard those who are judged"


def evaluate(
    model: str | Path,
    data: str | Path,
    out: str | Path | None = None,
    *,
    mapping: Mapping[str, str] | None = None,
    heard: bool = False,
    overwrite: bool = False,
    verbose: bool = True,
) -> RunFolder:
    """Judge a model on the clips of a prepared table, and write what it answered as a run of its own.

    Clips whose class the model does not know are left out, and it is not asked for what the data, or a clip's corpus,
    cannot hold. Where a run made the model, the speakers that it was trained or validated on are left out, too.

    Args:
        model: a run, a folder with a saved classifier, its name on the Hub, or "shipped", which comes with ser_ft.
        data: a table that `ser-ft prepare` wrote. out: the folder to write; by default evaluations/NAME-on-DATA.
        mapping: the model's class -> the data's, where their names do not say it. Where several of the model's stand
            for one of the data's, their probabilities are added.
        heard: judge the speakers that were trained or validated on, too; the result is marked as leaking.
        overwrite: remove an earlier evaluation in that folder. verbose: show what is left out, and progress.

    Returns:
        The run folder, less model and checkpoints; all clips are of the part "test".

    Raises:
        InputError: the model or the data cannot be had, they share fewer than two classes, no clip is left, or the
            folder is taken.
    """
    folder = find_model_folder(Path(resolve_model_path(str(model))).expanduser())
    run = next(training_runs(folder), None) if folder else None
    table, name = open_prepared(data), Path(data).expanduser().resolve().name
    target = to_write(out or Path("evaluations") / f"{_short(str(model), run)}-on-{name}", COMMAND, overwrite)
    subject = EvaluatedModel(PretrainedClassifier.load(str(folder or model)), run)
    parts, synthetic = ("train", "validation"), is_synthetic(table)
    trained = speakers_seen_in_training(subject.saved.name, parts, synthetic) if run else set()
    classes = ClassMapping.shared(subject.saved.classes, table.features["emotion"].names, mapping or {})
    judged = EvaluationSet.of(table, classes, trained, heard)
    if verbose:
        print("\n".join((f"{subject.called} on {name}", *judged.lines())))
    judged.check()
    device = PartialState().device
    shares = _probabilities(subject.saved, judged, device, verbose)
    clips = table.select(judged.rows)
    speed = real_time_factor(subject.saved.model, subject.saved.extractor, clips, device)
    settings = {"model": str(model), "data": str(data), "map": dict(mapping or {}), "seen": heard}
    _write(target, settings, subject, judged, shares, name, device=device_name(PartialState()), speed=speed)
    return target


@dataclass(frozen=True)
class EvaluatedModel:
    """A model, and the run that made it, where it is known."""

    saved: PretrainedClassifier
    run: RunFolder | None

    @property
    def called(self) -> str:
        """What it is called in tables."""
        is_known = self.run is not None and self.run.metrics_file.is_file()
        return str(self.run.metrics["model"]) if self.run and is_known else self.saved.display_name

    @property
    def about(self) -> dict[str, Any]:
        """What config.yaml says of it: the model, and the seed that it was trained with."""
        if self.run is None:
            return {"model": {"name": self.saved.name}, "seed": 0}
        return {key: self.run.config[key] for key in ("model", "seed")}


@dataclass(frozen=True)
class ClassMapping:
    """What a model can be asked on some data.

    Attributes:
        names: the classes of the data that it knows, in the data's order. theirs: the model's own, by number.
        places: of each of the model's, its place in `names`; -1 where the data has no such class; shape (theirs,).
    """

    names: tuple[str, ...]
    theirs: tuple[str, ...]
    places: np.ndarray

    @classmethod
    def shared(cls, theirs: Sequence[str], ours: Sequence[str], mapping: Mapping[str, str]) -> ClassMapping:
        """Put a model's classes to the data's: by name, by `ser_ft.labels.canonical_name`, or as a mapping says.

        Raises:
            InputError: fewer than two are shared, or the mapping names a class that is not there.
        """
        stands = [_among(ours, name) for name in theirs]
        for word, other in mapping.items():
            place, target = _among(theirs, word), _among(ours, other)
            if place is None or target is None:
                whose, is_known, missing = ("model", theirs, word) if place is None else ("data", ours, other)
                raise InputError(
                    f"--map {word}={other}: the {whose} has no class {missing}; it has {', '.join(is_known)}"
                )
            stands[place] = target
        shared = sorted({place for place in stands if place is not None})
        if len(shared) < 2:
            raise InputError(
                f"the model knows {', '.join(theirs)}, and the data {', '.join(ours)}: two or more must be shared; "
                "--map THEIRS=OURS,... says which of the model's stand for which of the data's"
            )
        places = np.array([-1 if place is None else shared.index(place) for place in stands])
        return cls(tuple(ours[place] for place in shared), tuple(theirs), places)

    def allowed(self, held: np.ndarray) -> np.ndarray:
        """Return which of the model's classes each clip can have, of which of `names` it can, shape (clips, ...)."""
        return np.asarray(held[:, self.places] & (self.places >= 0))

    def added(self, probabilities: np.ndarray) -> np.ndarray:
        """Return the probabilities of `names`, shape (clips, names), of those of `theirs`."""
        return np.asarray(probabilities @ (self.places[:, None] == np.arange(len(self.names))))


def _among(names: Sequence[str], word: str) -> int | None:
    """Return the place of a class among others: of its very name in any case, else of another word for it."""
    plain = [name.strip().lower() for name in names]
    if word.strip().lower() in plain:
        return plain.index(word.strip().lower())
    meant = canonical_name(word)
    is_known = [canonical_name(name) for name in names]
    return is_known.index(meant) if meant is not None and meant in is_known else None


@dataclass(frozen=True)
class EvaluationSet:
    """The clips of a table that a model is judged on, and why the others are not.

    Attributes:
        table: the prepared table. classes: that the model is asked. rows: of the clips, shape (clips,).
        left_out: class -> clips, for the model does not know it.
        known: rows of clips of speakers that the model was trained or validated on, of classes that it knows.
        heard: these are judged, too.
    """

    table: datasets.Dataset
    classes: ClassMapping
    rows: np.ndarray
    left_out: Mapping[str, int]
    known: np.ndarray
    heard: bool

    @classmethod
    def of(cls, table: datasets.Dataset, classes: ClassMapping, speakers: set[str], heard: bool) -> EvaluationSet:
        """Choose among a table's clips; `speakers` are those that the model was trained or validated on."""
        names = table.features["emotion"].names
        labels = [names[number] for number in table["emotion"]]
        askable = np.array([label in classes.names for label in labels])
        known = np.array([name in speakers for name in table["speaker"]])
        taken = np.ones(len(table), dtype=bool) if heard else ~known
        lost = Counter(label for label, left in zip(labels, taken & ~askable, strict=True) if left)
        left_out = {name: lost[name] for name in names if lost[name]}
        return cls(table, classes, np.flatnonzero(taken & askable), left_out, np.flatnonzero(known & askable), heard)

    @property
    def leaking(self) -> bool:
        """Whether a clip is judged whose speaker the model has heard."""
        return self.heard and len(self.known) > 0

    def check(self) -> None:
        """Refuse to judge nothing.

        Raises:
            InputError: no clip is left.
        """
        if not len(self.rows):
            if len(self.known):
                raise InputError(
                    "all clips are of speakers whom the model was trained or validated on, so that nothing is left to "
                    "judge it on; --heard judges it on them, and marks the result as leaking"
                )
            raise InputError(f"no clip of the data is {' or '.join(self.classes.names)}, which is what the model knows")

    def lines(self) -> list[str]:
        """Say for people what is left out."""
        classes, speakers = self.classes, len(set(self.table.select(self.known)["speaker"]))
        same = [(theirs, place) for theirs, place in zip(classes.theirs, classes.places.tolist(), strict=True)]
        renamed = [f"{name} for {classes.names[at]}" for name, at in same if at >= 0 and name != classes.names[at]]
        unasked = [name for name, at in same if at < 0]
        lines = [f"  clips: {len(self.rows)}, classes: {', '.join(classes.names)}"]
        if renamed:
            lines.append(f"  the model's names: {', '.join(renamed)}")
        if unasked:
            lines.append(f"  never answered, for the data has no such class: {', '.join(unasked)}")
        if self.left_out:
            told = ", ".join(f"{count} {name}" for name, count in self.left_out.items())
            lines.append(f"  not judged, for the model does not know their class: {told}")
        if len(self.known) and self.heard:
            lines.append(f"  LEAKING: {len(self.known)} clips are of {speakers} speakers whom the model has heard")
        elif len(self.known):
            whom = f"{speakers} speakers whom the model was trained or validated on"
            lines.append(f"  left out: {len(self.known)} clips of {whom} (--heard takes them in)")
        return lines

    def facts(self, name: str, called: str, doubt: str | None) -> dict[str, Any]:
        """Return what metrics.json says of the data.

        Args:
            name: of the data. called: of the model. doubt: why it may have heard those who are judged.
        """
        there = set(self.corpora)
        said = corpus_notes_and_terms({each: fact for each, fact in corpus_info(self.table).items() if each in there})
        speakers = len(set(self.table.select(self.known)["speaker"]))
        heard = {"clips": len(self.known), "speakers": speakers, "evaluated": self.leaking}
        return {
            "classes": list(self.classes.names),
            "split": {"name": f"evaluated-on-{name}", "fold": None, "seed": 0, "leaking": self.leaking},
            "seen": None if doubt else heard,
            "class_mapping": {
                theirs: self.classes.names[place] if place >= 0 else None
                for theirs, place in zip(self.classes.theirs, self.classes.places.tolist(), strict=True)
            },
            "calibration": None,
            **said | {"notes": said["notes"] | ({called: doubt} if doubt else {})},
        }

    @property
    def corpora(self) -> list[str]:
        """The corpus of each clip that is judged."""
        return list(self.table.select_columns(["corpus"]).select(self.rows)["corpus"])


def _doubt(subject: EvaluatedModel, judged: EvaluationSet) -> str | None:
    """Say why the model may have heard those whom it is judged on; None where it cannot."""
    if subject.run is None:
        return _UNKNOWN
    trained = speakers_seen_in_training(subject.saved.name, ("train", "validation"))
    named = all(map(is_known, [*trained, *judged.table.select(judged.rows)["speaker"]]))
    # As `push` writes them in place of names.
    return _NAMELESS if not named or any(map(is_pseudonym, trained)) else None


def _short(model: str, run: RunFolder | None) -> str:
    """Name a model in a folder's name: a sweep's fold0-seed0 with what lies above it."""
    folder = run.path.resolve() if run else Path(model)
    of_sweep = run is not None and re.fullmatch(r".+-seed\d+", folder.name)
    return f"{folder.parent.name}-{folder.name}" if of_sweep else folder.name


def _write(
    target: RunFolder,
    settings: Mapping[str, Any],
    subject: EvaluatedModel,
    judged: EvaluationSet,
    shares: np.ndarray,
    name: str,
    **environment: Any,
) -> None:
    """Write the run folder: what was judged on what, with which answers, and what they are worth."""
    config, classes = {COMMAND: settings, **subject.about}, judged.classes.names
    predictions = predictions_table(
        judged.table, classes, {"test": judged.rows}, {"test": shares}, None, config["seed"]
    )
    metrics = {
        "model": subject.called,
        "parameters": sum(parameter.numel() for parameter in subject.saved.model.parameters()),
        "seed": config["seed"],
        **judged.facts(name, subject.called, _doubt(subject, judged)),
        "parts": metrics_per_part(predictions, classes, {"test": judged.left_out}),
    }
    remove_folder(target.path)
    target.path.mkdir(parents=True)
    target.write_text(target.config_file, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    target.write_environment(**environment)
    if split := _split(subject.run, judged, metrics["split"]):
        target.write_json(target.split_file, split.to_dict())
    target.write_predictions(predictions)
    target.write_json(target.metrics_file, metrics)


def _probabilities(saved: PretrainedClassifier, judged: EvaluationSet, device: torch.device, shown: bool) -> np.ndarray:
    """Return the probabilities of the classes for the clips that are judged, shape (clips, classes)."""
    feed, classes = _feed(saved, judged.table, shown), judged.classes
    held = allowed_classes(judged.corpora, corpus_info(judged.table), classes.names)
    rig = None if saved.is_own_network else EncoderHooks(EncoderParts.of(saved.model))
    cast(nn.Module, saved.model).to(device)
    with progress_bar(total=len(judged.rows), desc="answers", unit=" clips", shown=shown) as progress:

        def collate(rows: Sequence[int]) -> Mapping[str, Any]:
            progress.update(len(rows))
            return feed.collate(rows)

        found = predict(
            saved.model,
            collate,
            judged.rows,
            feed.lengths,
            classes.allowed(held),
            equal_lengths=feed.requires_equal_lengths,
        )
    if rig is not None:
        rig.remove()
    return classes.added(found)


def _feed(saved: PretrainedClassifier, table: datasets.Dataset, shown: bool) -> BatchSource:
    """Return what makes a model's batches of a table, as they were made in training."""
    extractor = saved.extractor
    if not isinstance(extractor, SpectralFeatureExtractor):
        return WaveformBatches(table, extractor, EncoderParts.of(saved.model).input_spec)
    frames = compute_frames(table, extractor, shown)
    if extractor.normalize == "training":
        groups = np.zeros(len(table), dtype=np.int64)
        shift, scale = (np.array([values], dtype=np.float32) for values in (extractor.mean, extractor.scale))
        standard: Standardizer | None = Standardizer(shift, scale, groups)
    else:
        standard = Standardizer.fit(extractor, frames, table["speaker"], np.arange(len(table)))
    return FrameBatches(frames, np.array(table["duration"]), extractor, standard)


def _split(run: RunFolder | None, judged: EvaluationSet, about_it: Mapping[str, Any]) -> Split | None:
    """Return who was trained on and who is judged; None where that is not known, or they are not apart."""
    made = read_split(run.split_file) if run else None
    if made is None or made.leaking or judged.leaking:
        return None
    clips = judged.table.select_columns(["id", "speaker"]).select(judged.rows)
    parts = {**made.parts, "test": tuple(clips["id"])}
    speakers = {**made.speakers, "test": tuple(sorted(set(clips["speaker"])))}
    return Split(about_it["name"], about_it["seed"], None, False, parts, speakers)
