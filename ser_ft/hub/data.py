"""The data on the Hub: a prepared table as parquet where its terms let it be published, or its card alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.corpora import CORPORA
from ..data.licences import check_shared
from ..report.data_card import data_card
from ..results.runs import RunFolder, reading
from .upload import Content, Upload

if TYPE_CHECKING:
    import datasets
    import pandas as pd

_SHARD_BYTES = 400_000_000
_ROW_GROUP = 100  # clips: what a reader of one clip has to fetch
_FACTS = ("corpus", "speaker", "duration", "emotion")


def table_upload(folder: Path, name: str, accepted: bool, work: Path) -> Upload:
    """Gather a prepared table as parquet, with its card: all but where its files were found.

    Args:
        folder: that `ser-ft prepare` wrote. name: of the data set. accepted: the terms of data of one's own.
        work: a folder for the parquet files, until they are sent.

    Raises:
        InputError: its terms do not let it be published, or it cannot be read.
    """
    from ..data.prepare import about, open_prepared

    table = open_prepared(folder)
    corpora = about(table)
    check_shared(corpora, accepted)
    files: dict[str, Content] = {}
    table = _public(table, corpora)
    seconds = sum(table["duration"])
    shards = max(1, round(32_000 * seconds / _SHARD_BYTES + 0.5))
    for number in range(shards):
        file = work / f"train-{number:05d}-of-{shards:05d}.parquet"
        table.shard(shards, number, contiguous=True).to_parquet(file, batch_size=_ROW_GROUP)
        files[f"data/{file.name}"] = file
    files["README.md"] = _card_of_table(folder, table, corpora, name, sound=True)
    hidden = frozenset({str(folder.resolve())})
    return Upload(name, "dataset", files, "Recordings and their card, by ser_ft", sound=True, hidden=hidden)


def card_upload(folder: Path, name: str) -> Upload:
    """Gather the card of a prepared table, without a recording.

    Raises:
        InputError: it cannot be read.
    """
    from ..data.prepare import about, open_prepared

    table = open_prepared(folder)
    card = _card_of_table(folder, table, about(table), name, sound=False)
    return Upload(name, "dataset", {"README.md": card}, "The card of a data set, by ser_ft")


def card_upload_of_run(run: RunFolder, name: str) -> Upload:
    """Gather the card of the data that a run was made from, without a recording.

    Raises:
        InputError: a file of the run is missing or damaged.
    """
    with reading(run):
        clips = run.predictions.rename(columns={"label": "emotion"})
        metrics = run.metrics
        corpora = {
            corpus: {**fact, "note": (metrics.get("notes") or {}).get(corpus, "")}
            for corpus, fact in metrics["terms"].items()
        }
    card = data_card(name, clips[[*_FACTS, "part"]], metrics["classes"], corpora, sound=False, model=name)
    return Upload(name, "dataset", {"README.md": card.encode()}, f"The card of the data of {name}, by ser_ft")


def _card_of_table(
    folder: Path, table: datasets.Dataset, corpora: Mapping[str, Mapping[str, Any]], name: str, sound: bool
) -> bytes:
    from ..data.builder import SKIPPED_FILE, read_skipped

    listed = folder / SKIPPED_FILE
    skipped = read_skipped(listed) if listed.is_file() else []
    classes = table.features["emotion"].names
    clips: pd.DataFrame = table.select_columns(list(_FACTS)).to_pandas()
    clips["emotion"] = [classes[place] for place in clips["emotion"]]
    return data_card(name, clips, classes, corpora, sound=sound, skipped=skipped).encode()


def _public(table: datasets.Dataset, corpora: Mapping[str, Any]) -> datasets.Dataset:
    """Take out where the files were found; of data of one's own, number the speakers and the clips."""
    own = sorted(corpus for corpus in corpora if corpus not in CORPORA)
    shown = table.remove_columns([name for name in ("path",) if name in table.column_names])
    for column, what in (("id", "clip"), ("speaker", "speaker")):
        if not own:
            break
        names = list(zip(table["corpus"], table[column], strict=True))
        numbers = {name: number for number, name in enumerate(sorted({n for c, n in names if c in own}), start=1)}
        told = [f"own-{what}-{numbers[name]}" if corpus in own else name for corpus, name in names]
        shown = shown.remove_columns([column]).add_column(column, told)
    return shown
