"""A model over a data set: predictions, a row per clip, and the metrics made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from .grouping import duration_groups
from .metrics import compute_metrics
from .run_folder import PARTS, PREDICTION_COLUMNS

if TYPE_CHECKING:
    import datasets
    import pandas as pd
    import torch

_TABLE_COLUMNS = ("id", "path", "corpus", "speaker", "gender", "intensity", "duration")


def corpus_notes_and_terms(facts: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return what metrics.json says of corpora: `notes` where there are any, and `terms`.

    Args:
        facts: as `ser_ft.data.prepare.corpus_info` gives them.
    """
    said = ("title", "license", "terms", "citation")
    return {
        "notes": {name: fact["note"] for name, fact in facts.items() if fact["note"]},
        "terms": {name: {key: fact[key] for key in said} for name, fact in facts.items()},
    }


def predict(
    model: torch.nn.Module,
    collate: Callable[[Sequence[int]], Mapping[str, torch.Tensor]],
    rows: np.ndarray,
    lengths: np.ndarray,
    allowed: np.ndarray,
    batch_size: int = 32,
    equal_lengths: bool = False,
    share: tuple[int, int] = (0, 1),
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> np.ndarray:
    """Return the probabilities that a model gives to clips, over the classes that each clip's corpus can hold.

    Args:
        model: in any mode; it is put back into it.
        collate: from row numbers to the model's inputs.
        rows: which clips, shape (clips,). lengths: of every row of the table, for batches of like length.
        allowed: of these clips, bool, shape (clips, classes).
        batch_size: clips at once. equal_lengths: put only clips of one length into a batch.
        share: this process's number and how many there are; each computes some of the batches, which are the same
            however many there are. context: made around each call of the model, such as autocast's.

    Returns:
        Probabilities, float64, shape (clips, classes), zero for what the corpus cannot hold, and for clips of other
        processes; rows sum to one.
    """
    import torch

    modes = {module: module.training for module in model.modules()}
    model.eval()
    device = next(model.parameters()).device
    order = np.argsort(lengths[rows], kind="stable")
    cuts = np.arange(batch_size, len(rows), batch_size)
    if equal_lengths:
        cuts = np.union1d(cuts, 1 + np.flatnonzero(np.diff(lengths[rows][order])))
    found = np.zeros(allowed.shape, dtype=np.float64)
    with torch.no_grad():
        for chosen in np.split(order, cuts)[share[0] :: share[1]]:
            inputs = {name: value.to(device) for name, value in collate(rows[chosen].tolist()).items()}
            with context():
                logits = model(**inputs).logits
            found[chosen] = masked_softmax(logits.float().cpu().numpy().astype(np.float64), allowed[chosen])
    for module, training in modes.items():
        module.training = training
    return found


def masked_softmax(logits: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Return the softmax over the allowed classes, zero elsewhere; all of shape (clips, classes)."""
    logits = np.where(allowed, logits, -np.inf)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def predictions_table(
    table: datasets.Dataset,
    classes: Sequence[str],
    parts: Mapping[str, np.ndarray],
    probabilities: Mapping[str, np.ndarray],
    fold: int | None,
    seed: int,
) -> pd.DataFrame:
    """Put the evaluated clips together as `predictions.parquet` holds them.

    Args:
        table: the prepared table. classes: that are told apart, in the order of their numbers.
        parts: part -> its rows, all of these classes. probabilities: part -> shape (clips, classes).
        fold, seed: of the run.
    """
    import pandas as pd

    names = table.features["emotion"].names
    facts = table.select_columns([*_TABLE_COLUMNS, "emotion"]).to_pandas()
    pieces = []
    for part in PARTS:
        if part in probabilities and len(parts[part]):
            piece = facts.iloc[parts[part]].reset_index(drop=True)
            piece["label"] = [names[place] for place in piece.pop("emotion")]
            piece["part"] = part
            pieces.append(piece.join(pd.DataFrame(probabilities[part], columns=list(classes))))
    whole = pd.concat(pieces, ignore_index=True)
    whole["fold"] = pd.Series([fold] * len(whole), dtype="Int64")
    whole["seed"] = seed
    ordered: pd.DataFrame = whole[[*PREDICTION_COLUMNS, *classes]]
    return ordered


def metrics_per_part(
    predictions: pd.DataFrame, classes: Sequence[str], left_out: Mapping[str, Mapping[str, int]] | None = None
) -> dict[str, Any]:
    """Return part -> its metrics, as `ser_ft.evaluation.metrics.compute_metrics` makes them, from a predictions table.

    Args:
        predictions: as `predictions_table` gives it. classes: in the order of their numbers.
        left_out: part -> class -> how many clips are not in the table, for the model does not know their class.
    """
    places = {label: place for place, label in enumerate(classes)}
    found = {}
    for part in PARTS:
        rows = predictions[predictions["part"] == part]
        if len(rows):
            labels = rows["label"].map(places).to_numpy(dtype=np.int64)
            shares = rows[list(classes)].to_numpy(dtype=np.float64)
            traits = {name: rows[name].tolist() for name in ("gender", "intensity")}
            traits["duration"] = duration_groups(rows["duration"])
            scores = compute_metrics(labels, shares, rows["speaker"].tolist(), classes, rows["corpus"].tolist(), traits)
            found[part] = scores | {"excluded": dict((left_out or {}).get(part, {}))}
    return found
