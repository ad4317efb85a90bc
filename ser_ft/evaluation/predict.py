"""Predictions of a model for a data set, and the metrics computed from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..models.outputs import to_probabilities
from .grouping import duration_groups
from .metrics import compute_metrics
from .run_folder import PARTS, PREDICTION_COLUMNS, TABLE_COLUMNS

if TYPE_CHECKING:
    import datasets
    import pandas as pd
    import torch


def corpus_notes_and_terms(corpora: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the entries of metrics.json that describe corpora: `notes` (only of corpora with a note) and `terms`."""
    keys = ("title", "license", "terms", "citation")
    return {
        "notes": {name: info["note"] for name, info in corpora.items() if info["note"]},
        "terms": {name: {key: info[key] for key in keys} for name, info in corpora.items()},
    }


def predict(
    model: torch.nn.Module,
    collate: Callable[[Sequence[int]], Mapping[str, torch.Tensor]],
    rows: np.ndarray,
    lengths: np.ndarray,
    allowed: np.ndarray,
    batch_size: int = 32,
    equal_lengths: bool = False,
    shard: tuple[int, int] = (0, 1),
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    name: str = "the model",
) -> np.ndarray:
    """Return a model's probabilities for clips, over the classes that each clip's corpus contains.

    Args:
        model: its training or evaluation mode is restored.
        collate: function from row numbers to the model's inputs.
        rows: rows of the clips, shape (clips,).
        lengths: lengths of all rows of the table. Clips of similar length share a batch.
        allowed: classes that each clip's corpus contains, bool, shape (clips, classes).
        batch_size: number of clips in a batch.
        equal_lengths: whether all clips of a batch must have the same length.
        shard: index of this process and number of processes, which each compute some of the batches.
        context: factory of a context for each call of the model, such as autocast.
        name: name of the model in errors.

    Returns:
        Float64, shape (clips, classes): 0 for classes that are not allowed, and in rows of other processes.

    Raises:
        NotFiniteError: the model computes NaN or infinite values.
    """
    import torch

    modes = {module: module.training for module in model.modules()}
    model.eval()
    device = next(model.parameters()).device
    order = np.argsort(lengths[rows], kind="stable")
    boundaries = np.arange(batch_size, len(rows), batch_size)
    if equal_lengths:
        boundaries = np.union1d(boundaries, 1 + np.flatnonzero(np.diff(lengths[rows][order])))
    probabilities = np.zeros(allowed.shape, dtype=np.float64)
    with torch.no_grad():
        for batch in np.split(order, boundaries)[shard[0] :: shard[1]]:
            inputs = {name: value.to(device) for name, value in collate(rows[batch].tolist()).items()}
            with context():
                logits = model(**inputs).logits
            probabilities[batch] = to_probabilities(
                logits.float().cpu().numpy(), allowed[batch].shape, allowed[batch], name
            )
    for module, training in modes.items():
        module.training = training
    return probabilities


def predictions_table(
    table: datasets.Dataset,
    classes: Sequence[str],
    parts: Mapping[str, np.ndarray],
    probabilities: Mapping[str, np.ndarray],
    fold: int | None,
    seed: int,
) -> pd.DataFrame:
    """Return the content of `predictions.parquet`.

    `parts` is part -> rows of the table, whose labels are among `classes`; `probabilities` is part -> shape (clips,
    classes). `fold` and `seed` are those of the run.
    """
    import pandas as pd

    names = table.features["emotion"].names
    clips = table.select_columns([*TABLE_COLUMNS, "emotion"]).to_pandas()
    frames = []
    for part in PARTS:
        if part in probabilities and len(parts[part]):
            frame = clips.iloc[parts[part]].reset_index(drop=True)
            frame["label"] = [names[number] for number in frame.pop("emotion")]
            frame["part"] = part
            frames.append(frame.join(pd.DataFrame(probabilities[part], columns=list(classes))))
    predictions = pd.concat(frames, ignore_index=True)
    predictions["fold"] = pd.Series([fold] * len(predictions), dtype="Int64")
    predictions["seed"] = seed
    return cast("pd.DataFrame", predictions[[*PREDICTION_COLUMNS, *classes]])


def metrics_per_part(
    predictions: pd.DataFrame, classes: Sequence[str], excluded: Mapping[str, Mapping[str, int]] | None = None
) -> dict[str, Any]:
    """Return part -> its metrics (`ser_ft.evaluation.metrics.compute_metrics`) from a table of predictions.

    `excluded` is part -> class -> number of clips that are not in the table because the model does not know the class.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    metrics = {}
    for part in PARTS:
        rows = predictions[predictions["part"] == part]
        if len(rows):
            labels = rows["label"].map(numbers).to_numpy(dtype=np.int64)
            probabilities = rows[list(classes)].to_numpy(dtype=np.float64)
            groups = {name: rows[name].tolist() for name in ("gender", "intensity")}
            groups["duration"] = duration_groups(rows["duration"])
            speakers, corpora = rows["speaker"].tolist(), rows["corpus"].tolist()
            part_metrics = compute_metrics(labels, probabilities, speakers, classes, corpora, groups)
            metrics[part] = part_metrics | {"excluded": dict((excluded or {}).get(part, {}))}
    return metrics
