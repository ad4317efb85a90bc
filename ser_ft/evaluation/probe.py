"""How much of the emotion each layer of pretrained speech encoders holds: a linear probe on every one, by speaker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import PartialState
from huggingface_hub.utils.tqdm import enable_progress_bars
from scipy.optimize import minimize
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from transformers.utils import logging

from ..data.prepare import corpus_info, open_prepared
from ..data.splits import Split, make_split
from ..dataloading.cache import FlatCache
from ..dataloading.hidden_states import POOLINGS, compute_hidden_states
from ..dataloading.targets import allowed_classes
from ..models import encoders, model_kind
from ..models.encoders import EncoderParts, EncoderSpec
from ..utils.accelerator import best_precision
from ..utils.errors import InputError
from ..utils.progress import progress_bar
from .metrics import uar

if TYPE_CHECKING:
    import datasets

PRECISIONS = ("auto", "no", "bf16")
# Variance that the logits of a clip are believed to have before any is heard. At this value the UAR of statistics of
# MFCCs, as they are (200 numbers) and spread over 768 and 1536, was within 0.011 of its highest, by speaker, on RAVDESS
# and on 4000 clips of CREMA-D (rebuilt audio); from 3 to 100 it hardly moves.
_LOGIT_VARIANCE = 10.0
# Of the gradient; where L-BFGS stops. Ten times closer changes no logit by more than a few hundredths.
_TOLERANCE = 1e-4
_MOST_STEPS = 500

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def probe(
    backbones: Sequence[str],
    data: str | Path,
    pooling: str = "mean",
    folds: int = 5,
    seed: int = 0,
    split: str | Path | None = None,
    precision: str = "auto",
    verbose: bool = True,
) -> dict[str, Any]:
    """Score every layer of pretrained speech encoders by a linear classifier on its states, on unheard speakers.

    Each clip goes through an encoder once; the states of all layers are pooled over time and kept on the disk. Within
    each fold they are standardised on its training speakers, as is the logistic regression fitted: nothing is tuned.

    Args:
        backbones: names on the Hub, or folders. data: a prepared table's folder.
        pooling: of the states over time: "mean", or "mean+std".
        folds: by speaker, each held out once. seed: of their draw.
        split: a run's split.json, or another split file: only its training part is probed. By default all clips are.
        precision: of the encoders: "no" (float32), "bf16", or "auto": the fastest that the machine has.
        verbose: show progress.

    Returns:
        What was found, ready for JSON: split {name, leaking} (name None: all clips), notes (corpus -> note), pooling,
        precision, seed, clips, speakers, chance; and layers, a list of
        {backbone, layer, state, uar, deviation, folds, best}:
        layer: 0 is what enters the first ("input" is its state), the others are counted from 1 (what leaves them:
            "output"). Where an encoder does something more to the last, that layer comes once more, as "head".
        uar: mean over the folds. deviation: between them. folds: the UAR of each.
        best: whether its UAR is the highest of the backbone's, of equals the lowest layer's.

    Raises:
        InputError: there is no such encoder, table or split, an option is unknown, or there are too few speakers.
    """
    _check(backbones, pooling, folds, seed, precision)
    table = open_prepared(data)
    clips = _Clips.of(table, split, folds, seed)
    found = [encoders.find_encoder(name, clips.classes) for name in backbones]
    # Its bar over the weights would break into ours; a download keeps its own.
    logging.disable_progress_bar()
    enable_progress_bars()
    if precision == "auto":
        precision = best_precision()
    layers: list[dict[str, Any]] = []
    for backbone in found:
        states = _states(backbone, table, pooling, precision, verbose)
        layers += _score(backbone.name, states, clips, verbose)
    return {
        **clips.facts,
        "pooling": pooling,
        "precision": precision,
        "seed": seed,
        "layers": layers,
    }


def _check(backbones: Sequence[str], pooling: str, folds: int, seed: int, precision: str) -> None:
    """Refuse options before anything is read."""
    for name in backbones:
        if list(backbones).count(name) > 1:
            raise InputError(f"{name}: is given twice")
        if model_kind(name) != "speech":
            raise InputError(f"{name}: is no speech encoder to probe; name one, such as facebook/hubert-base-ls960")
    for what, value, known in (("pooling", pooling, POOLINGS), ("precision", precision, PRECISIONS)):
        if value not in known:
            raise InputError(f"--{what} is one of {', '.join(known)}, not {value!r}")
    if folds < 2:
        raise InputError(f"--folds must be 2 or more, not {folds}")
    if not 0 <= seed < 2**32:
        raise InputError(f"--seed must be a whole number from 0 to {2**32 - 1}, not {seed}")


@dataclass(frozen=True)
class _Clips:
    """The clips that are probed.

    Attributes:
        rows: of the table. labels: class numbers; both of shape (clips,).
        allowed: which classes the clip's corpus can hold, bool, shape (clips, classes).
        folds: (training, held out) each, as places among the clips.
        facts: what the outcome says of them.
    """

    rows: np.ndarray
    labels: np.ndarray
    allowed: np.ndarray
    folds: list[tuple[np.ndarray, np.ndarray]]
    classes: tuple[str, ...]
    facts: dict[str, Any]

    @classmethod
    def of(cls, table: datasets.Dataset, split: str | Path | None, folds: int, seed: int) -> _Clips:
        """Choose the clips, and draw the folds: of a split's training part alone, where one is given."""
        rows, made = np.arange(len(table)), None
        if split is not None:
            made = make_split(table, "file", file=split)
            rows = np.sort(made.rows(table)["train"])
        # From here on nothing is known of other clips, not even which classes they are of.
        chosen = table.select(rows)
        speakers = len(set(chosen["speaker"]))
        if speakers < folds:
            where = "the data has" if split is None else f"the training part of {split} has"
            raise InputError(f"{folds} folds by speaker need {folds} speakers or more, and {where} {speakers}")
        classes = tuple(table.features["emotion"].names)
        labels = np.array(chosen["emotion"], dtype=np.int64)
        facts = corpus_info(chosen)
        held = allowed_classes(list(chosen["corpus"]), facts, classes)
        parts = [make_split(chosen, "kfold", seed=seed, fold=at, folds=folds, validation=0.0) for at in range(folds)]
        places = [part.rows(chosen) for part in parts]
        pairs = [(fold["train"], fold["test"]) for fold in places]
        if min(len(np.unique(labels[train])) for train, _ in pairs) < 2:
            raise InputError("a fold leaves one class alone to learn from: there is nothing to tell apart")
        told = {"clips": len(rows), "speakers": speakers, "chance": 1 / len(np.unique(labels))}
        notes = {corpus: fact["note"] for corpus, fact in facts.items() if fact["note"]}
        return cls(rows, labels, held, pairs, classes, {"split": _told(made), "notes": notes, **told})


def _told(split: Split | None) -> dict[str, Any]:
    return {"name": split and split.name, "fold": split and split.fold, "leaking": bool(split and split.leaking)}


def _states(backbone: EncoderSpec, table: datasets.Dataset, pooling: str, precision: str, shown: bool) -> FlatCache:
    """Return the pooled states of every clip of a table, also of those that are not probed: the next split's may be."""
    device = PartialState().device
    autocast: Callable[[], AbstractContextManager[Any]] | None = None
    if precision in _DTYPES:
        autocast = lambda: torch.autocast(device.type, dtype=_DTYPES[precision])  # noqa: E731
    parts = EncoderParts.of(encoders.load_encoder(backbone))
    return compute_hidden_states(table, parts, backbone.extractor, pooling, shown, device, autocast)


def _score(name: str, states: FlatCache, clips: _Clips, shown: bool) -> list[dict[str, Any]]:
    """Fit and score every state of a backbone."""
    last = int(states.lengths[0]) - 2
    named = [(0, "input"), *((layer, "output") for layer in range(1, last + 1)), (last, "head")]
    if all(np.array_equal(states[row][-2], states[row][-1]) for row in clips.rows):
        named.pop()
    found: list[dict[str, Any]] = []
    for layer, state in progress_bar(named, desc=name, unit=" layers", shown=shown):
        values = np.stack([states[row][len(found)] for row in clips.rows])
        if not np.isfinite(values).all():
            raise InputError(f"{name}: layer {layer} gives values beyond all bounds: try --precision no")
        # The products are small and many: where other work shares the machine, threads mostly wait for each other.
        with threadpool_limits(1):
            folds = [_uar(values, clips, train, held) for train, held in clips.folds]
        spread = {"uar": mean(folds), "std": stdev(folds), "folds": folds}
        found.append({"backbone": name, "layer": layer, "state": state, **spread})
    best = max(range(len(found)), key=lambda place: (found[place]["uar"], -place))
    return [{**row, "best": place == best} for place, row in enumerate(found)]


def _uar(values: np.ndarray, clips: _Clips, train: np.ndarray, held: np.ndarray) -> float:
    """Return the UAR on a fold's held-out clips. values: float32, shape (clips, size)."""
    scaler = StandardScaler().fit(values[train])
    weights = fit_logistic_regression(scaler.transform(values[train]), clips.labels[train], clips.allowed[train])
    logits = scaler.transform(values[held]) @ weights[:-1] + weights[-1]
    guessed = np.where(clips.allowed[held], logits, -np.inf).argmax(axis=1)
    return uar(clips.labels[held], guessed, len(clips.classes))


def fit_logistic_regression(values: np.ndarray, labels: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Fit a logistic regression in which each clip is asked for the classes alone that its corpus can hold.

    All classes weigh the same, as in UAR. The weights are drawn towards zero by as much as if they were normal with a
    variance of 10 / size: then the logits of a clip have a variance of 10, however wide the states are, and wide
    encoders compare with narrow ones. It is the C of scikit-learn's LogisticRegression, which has no such mask.

    Args:
        values: standardised, float32, shape (clips, size). labels: class numbers, shape (clips,).
        allowed: bool, shape (clips, classes).

    Returns:
        Weights, float32, and below them the biases: shape (size + 1, classes).
    """
    clips, size = values.shape
    classes = allowed.shape[1]
    targets = np.eye(classes, dtype=np.float32)[labels]
    counts = np.bincount(labels, minlength=classes)
    shares = (1.0 / counts[labels] / np.count_nonzero(counts)).astype(np.float32)
    decay = np.float32(size / (_LOGIT_VARIANCE * clips))
    barred = np.where(allowed, np.float32(0), np.float32(-np.inf))

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.astype(np.float32).reshape(size + 1, classes)
        logits = values @ weights[:-1] + weights[-1] + barred
        logits -= logits.max(axis=1, keepdims=True)
        guesses = np.exp(logits)
        total = guesses.sum(axis=1, keepdims=True)
        own = np.log(total[:, 0]) - logits[np.arange(clips), labels]
        errors = (guesses / total - targets) * shares[:, None]
        slopes = np.concatenate((values.T @ errors + decay * weights[:-1], errors.sum(axis=0, keepdims=True)))
        value = float(shares @ own) + 0.5 * float(decay) * float(np.square(weights[:-1]).sum())
        return value, slopes.ravel().astype(np.float64)

    start = np.zeros((size + 1) * classes)
    options = {"gtol": _TOLERANCE, "maxiter": _MOST_STEPS}
    found = minimize(loss, start, method="L-BFGS-B", jac=True, options=options)
    return np.asarray(found.x, dtype=np.float32).reshape(size + 1, classes)
