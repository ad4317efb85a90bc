"""Linear probes on every layer of pretrained speech encoders: how well each layer separates the emotions."""

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
from ..data.splits import make_split
from ..dataloading.cache import FlatCache
from ..dataloading.hidden_states import POOLINGS, compute_hidden_states
from ..dataloading.targets import allowed_classes
from ..models import encoder_spec, encoders, model_kind
from ..models.encoder_spec import EncoderSpec
from ..models.encoders import EncoderParts
from ..utils.accelerator import best_precision
from ..utils.caches import cache_home
from ..utils.errors import InputError
from ..utils.progress import progress_bar
from .metrics import uar

if TYPE_CHECKING:
    import datasets

PRECISIONS = ("auto", "no", "bf16")
# Prior variance of a clip's logits. At this value the UAR of MFCC statistics, both in their 200 dimensions and
# projected to 768 and 1536, was within 0.011 of its maximum, with folds by speaker, on RAVDESS and on 4000 clips of
# CREMA-D (rebuilt audio). From 3 to 100 it hardly changes.
_LOGIT_VARIANCE = 10.0
# Norm of the gradient at which L-BFGS stops. A ten times smaller one changes no logit by more than a few hundredths.
_GRADIENT_TOLERANCE = 1e-4
_MAX_ITERATIONS = 500

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def probe(
    backbones: Sequence[str],
    data: str | Path,
    pooling: str = "mean",
    folds: int = 5,
    seed: int = 0,
    split: str | Path | None = None,
    precision: str = "auto",
    allow_pickle: bool = False,
    verbose: bool = True,
) -> dict[str, Any]:
    """Score every layer of pretrained speech encoders by a linear classifier on its hidden states, on unseen speakers.

    Each clip passes through an encoder once; the states of all layers are pooled over time and cached on disk. In each
    fold, standardization and logistic regression are fitted on the training speakers. No hyperparameter is tuned.

    Args:
        backbones: names on the Hub, or folders.
        data: folder of a prepared table.
        pooling: pooling of the states over time, "mean" or "mean+std".
        folds: number of folds by speaker.
        split: a split file, such as a run's split.json: only its training part is probed. None: all clips.
        precision: precision of the encoders: "no" (float32), "bf16", or "auto" (the fastest on this machine).
        allow_pickle: also load pickled weights.

    Returns:
        A dictionary ready for JSON: split {name, fold, leaking} (name None: all clips), notes (corpus -> note), clips,
        speakers, chance, pooling, precision, seed; layers: a list of {backbone, layer, state, uar, std, folds, best}.
        Layer 0 is the input of the first layer (state "input"), 1 and up are the outputs of the layers ("output"). If
        the encoder processes the last output further, that layer occurs once more, with the state "head". `folds` is
        the UAR of each fold, uar and std are their mean and standard deviation. `best` marks the backbone's best layer
        (the lowest, if several have the highest UAR).

    Raises:
        InputError: an encoder, table or split does not exist, an option is unknown, or there are too few speakers.
    """
    _check_options(backbones, pooling, folds, seed, precision)
    cache_home()
    table = open_prepared(data)
    clips = _ProbedClips.select(table, split, folds, seed)
    specs = [encoder_spec.find_encoder(name, clips.classes, allow_pickle=allow_pickle) for name in backbones]
    # transformers' progress bar over the weights would break into ours. Downloads keep their bars.
    logging.disable_progress_bar()
    enable_progress_bars()
    if precision == "auto":
        precision = best_precision()
    layers: list[dict[str, Any]] = []
    for spec in specs:
        states = _pooled_states(spec, table, pooling, precision, verbose)
        layers += _score_layers(spec.name, states, clips, verbose)
    return {**clips.summary, "pooling": pooling, "precision": precision, "seed": seed, "layers": layers}


def _check_options(backbones: Sequence[str], pooling: str, folds: int, seed: int, precision: str) -> None:
    for name in backbones:
        if list(backbones).count(name) > 1:
            raise InputError(f"{name}: is given twice")
        if model_kind(name) != "speech":
            raise InputError(f"{name}: is not a speech encoder; choose one such as facebook/hubert-base-ls960")
    for option, value, choices in (("pooling", pooling, POOLINGS), ("precision", precision, PRECISIONS)):
        if value not in choices:
            raise InputError(f"--{option} must be one of {', '.join(choices)}, not {value!r}")
    if folds < 2:
        raise InputError(f"--folds must be 2 or more, not {folds}")
    if not 0 <= seed < 2**32:
        raise InputError(f"--seed must be a whole number from 0 to {2**32 - 1}, not {seed}")


@dataclass(frozen=True)
class _ProbedClips:
    """The clips that are probed: rows of the table, labels, and allowed classes, shape (clips, classes).

    `folds` are (training, test) indices of the clips; `summary` is the part of the result that describes the clips.
    """

    rows: np.ndarray
    labels: np.ndarray
    allowed: np.ndarray
    folds: list[tuple[np.ndarray, np.ndarray]]
    classes: tuple[str, ...]
    summary: dict[str, Any]

    @classmethod
    def select(cls, table: datasets.Dataset, split_file: str | Path | None, num_folds: int, seed: int) -> _ProbedClips:
        """Select all clips, or the training part of a split, and draw the folds."""
        rows, split = np.arange(len(table)), None
        if split_file is not None:
            split = make_split(table, "file", file=split_file)
            rows = np.sort(split.row_indices(table)["train"])
        # Nothing below depends on other clips, not even on their classes.
        selected = table.select(rows)
        speakers = len(set(selected["speaker"]))
        if speakers < num_folds:
            owner = "the data have" if split_file is None else f"the training part of {split_file} has"
            raise InputError(f"{num_folds} folds by speaker need {num_folds} speakers or more, but {owner} {speakers}")
        classes = tuple(table.features["emotion"].names)
        labels = np.array(selected["emotion"], dtype=np.int64)
        info = corpus_info(selected)
        allowed = allowed_classes(list(selected["corpus"]), info, classes)
        folds = []
        for fold in range(num_folds):
            split_by_speaker = make_split(selected, "kfold", seed=seed, fold=fold, folds=num_folds, validation=0.0)
            parts = split_by_speaker.row_indices(selected)
            folds.append((parts["train"], parts["test"]))
        if min(len(np.unique(labels[train])) for train, _ in folds) < 2:
            raise InputError("a fold has only one class left to train on; at least two are needed")
        summary = {
            "split": {
                "name": split and split.name,
                "fold": split and split.fold,
                "leaking": bool(split and split.leaking),
            },
            "notes": {corpus: entry["note"] for corpus, entry in info.items() if entry["note"]},
            "clips": len(rows),
            "speakers": speakers,
            "chance": 1 / len(np.unique(labels)),
        }
        return cls(rows, labels, allowed, folds, classes, summary)


def _pooled_states(spec: EncoderSpec, table: datasets.Dataset, pooling: str, precision: str, show: bool) -> FlatCache:
    """Return the pooled states of all clips of a table: the next split may probe other clips."""
    device = PartialState().device
    autocast: Callable[[], AbstractContextManager[Any]] | None = None
    if precision in _DTYPES:
        autocast = lambda: torch.autocast(device.type, dtype=_DTYPES[precision])  # noqa: E731
    parts = EncoderParts.of(encoders.load_encoder(spec))
    return compute_hidden_states(table, parts, spec.extractor, pooling, show, device, autocast)


def _score_layers(name: str, states: FlatCache, clips: _ProbedClips, show: bool) -> list[dict[str, Any]]:
    last = int(states.lengths[0]) - 2
    layers = [(0, "input"), *((layer, "output") for layer in range(1, last + 1)), (last, "head")]
    if all(np.array_equal(states[row][-2], states[row][-1]) for row in clips.rows):
        layers.pop()
    scores: list[dict[str, Any]] = []
    for layer, state in progress_bar(layers, desc=name, unit=" layers", show_progress=show):
        values = np.stack([states[row][len(scores)] for row in clips.rows])
        if not np.isfinite(values).all():
            raise InputError(f"{name}: layer {layer} gives infinite values: try --precision no")
        # The matrix products are small and many: threads would mostly wait for each other on a busy machine.
        with threadpool_limits(1):
            folds = [_fold_uar(values, clips, train, test) for train, test in clips.folds]
        uars = {"uar": mean(folds), "std": stdev(folds), "folds": folds}
        scores.append({"backbone": name, "layer": layer, "state": state, **uars})
    best = max(range(len(scores)), key=lambda index: (scores[index]["uar"], -index))
    return [{**row, "best": index == best} for index, row in enumerate(scores)]


def _fold_uar(values: np.ndarray, clips: _ProbedClips, train: np.ndarray, test: np.ndarray) -> float:
    scaler = StandardScaler().fit(values[train])
    weights = fit_logistic_regression(scaler.transform(values[train]), clips.labels[train], clips.allowed[train])
    logits = scaler.transform(values[test]) @ weights[:-1] + weights[-1]
    predictions = np.where(clips.allowed[test], logits, -np.inf).argmax(axis=1)
    return uar(clips.labels[test], predictions, len(clips.classes))


def fit_logistic_regression(
    values: np.ndarray,
    labels: np.ndarray,
    allowed: np.ndarray,
    offset: np.ndarray | None = None,
    variance: float = _LOGIT_VARIANCE,
    groups: np.ndarray | None = None,
) -> np.ndarray:
    """Fit a logistic regression whose softmax for each clip is over the classes that its corpus contains.

    All classes have the same total weight, as in UAR, and within a class all `groups`, numbers of shape (clips,). The
    weights have a normal prior with a variance of `variance` / size: a clip's logits then have the prior variance
    `variance` for any size of the states, so that wide and narrow encoders are comparable. It corresponds to C of
    scikit-learn's LogisticRegression, which has no such mask.

    `values` are standardized, float32, shape (clips, size); `allowed` is bool, shape (clips, classes); `offset`, of the
    same shape, is added to the logits. The weights are float32, with the biases in the last row: shape (size + 1,
    classes).
    """
    clips, size = values.shape
    decay = np.float32(size / (variance * clips))
    if size > clips:
        # The weights lie in the space of the clips, whose principal axes are an orthonormal basis of it.
        scores, lengths, axes = np.linalg.svd(values, full_matrices=False)
        weights = _minimize(scores * lengths, labels, allowed, offset, decay, groups)
        return np.concatenate((axes.T @ weights[:-1], weights[-1:]))
    return _minimize(values, labels, allowed, offset, decay, groups)


def _minimize(
    values: np.ndarray,
    labels: np.ndarray,
    allowed: np.ndarray,
    offset: np.ndarray | None,
    weight_decay: np.float32,
    groups: np.ndarray | None,
) -> np.ndarray:
    clips, size = values.shape
    classes = allowed.shape[1]
    targets = np.eye(classes, dtype=np.float32)[labels]
    groups = np.zeros(clips, dtype=int) if groups is None else groups
    counts = np.zeros((classes, groups.max() + 1))
    np.add.at(counts, (labels, groups), 1)
    groups_of_class = np.count_nonzero(counts, axis=1)
    clip_weights = 1.0 / (counts[labels, groups] * groups_of_class[labels] * np.count_nonzero(groups_of_class))
    clip_weights = clip_weights.astype(np.float32)
    mask = np.where(allowed, np.float32(0), np.float32(-np.inf))
    if offset is not None:
        mask = mask + offset.astype(np.float32)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.astype(np.float32).reshape(size + 1, classes)
        logits = values @ weights[:-1] + weights[-1] + mask
        logits -= logits.max(axis=1, keepdims=True)
        exponentials = np.exp(logits)
        sums = exponentials.sum(axis=1, keepdims=True)
        losses = np.log(sums[:, 0]) - logits[np.arange(clips), labels]
        errors = (exponentials / sums - targets) * clip_weights[:, None]
        gradient = np.concatenate((values.T @ errors + weight_decay * weights[:-1], errors.sum(axis=0, keepdims=True)))
        value = float(clip_weights @ losses) + 0.5 * float(weight_decay) * float(np.square(weights[:-1]).sum())
        return value, gradient.ravel().astype(np.float64)

    start = np.zeros((size + 1) * classes)
    options = {"gtol": _GRADIENT_TOLERANCE, "maxiter": _MAX_ITERATIONS}
    result = minimize(loss, start, method="L-BFGS-B", jac=True, options=options)
    return np.asarray(result.x, dtype=np.float32).reshape(size + 1, classes)
