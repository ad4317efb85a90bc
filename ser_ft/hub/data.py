"""The data on the Hub: a prepared table as parquet where its terms let it be published, or its card alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.corpora import CORPORA
from ..data.licenses import check_shared
from ..evaluation.run_folder import RunFolder, explain_read_errors
from ..report.cards.data_card import data_card
from ..utils.progress import progress_bar
from .upload import Content, Upload

if TYPE_CHECKING:
    import datasets
    import pandas as pd

_SHARD_BYTES = 400_000_000
_BYTES_A_SECOND = 32_000  # 16-bit samples at 16 kHz
_ROW_GROUP = 100  # clips: what a reader of one clip has to fetch
_KEPT_BACK = ["path"]  # where the file was found on this machine
_FACTS = ("corpus", "speaker", "duration", "emotion")


def table_upload(folder: Path, name: str, accepted: bool, work: Path) -> Upload:
    """Gather a prepared table as parquet, with its card: all but where its files were found.

    Args:
        folder: that `ser-ft prepare` wrote. name: of the data set. accepted: the terms of data of one's own.
        work: a folder for the parquet files, until they are sent.

    Raises:
        InputError: its terms do not let it be published, or it cannot be read.
    """
    from ..data.prepare import corpus_info, open_prepared

    table = open_prepared(folder)
    corpora = corpus_info(table)
    check_shared(corpora, accepted)
    files: dict[str, Content] = {}
    names = _names(table, corpora)
    shards = math.ceil(_BYTES_A_SECOND * sum(table["duration"]) / _SHARD_BYTES)
    for number in range(shards):
        file = work / f"train-{number:05d}-of-{shards:05d}.parquet"
        _write(table.shard(shards, number, contiguous=True), file, names)
        files[f"data/{file.name}"] = file
    files["README.md"] = _card_of_table(folder, table, corpora, name, sound=True)
    hidden = frozenset({str(folder.resolve())})
    return Upload(name, "dataset", files, "Recordings and their card, by ser_ft", sound=True, hidden=hidden)


def card_upload(folder: Path, name: str) -> Upload:
    """Gather the card of a prepared table, without a recording.

    Raises:
        InputError: it cannot be read.
    """
    from ..data.prepare import corpus_info, open_prepared

    table = open_prepared(folder)
    card = _card_of_table(folder, table, corpus_info(table), name, sound=False)
    return Upload(name, "dataset", {"README.md": card}, "The card of a data set, by ser_ft")


def card_upload_of_run(run: RunFolder, name: str) -> Upload:
    """Gather the card of the data that a run was made from, without a recording.

    Raises:
        InputError: a file of the run is missing or damaged.
    """
    with explain_read_errors(run):
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


def _names(table: datasets.Dataset, corpora: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Number the clips and the speakers of data of one's own: column -> name -> what stands in for it."""
    own = [corpus for corpus in corpora if corpus not in CORPORA]
    found = {}
    for column, what in (("id", "clip"), ("speaker", "speaker")):
        names = sorted({name for corpus, name in zip(table["corpus"], table[column], strict=True) if corpus in own})
        found[column] = {name: f"own-{what}-{number}" for number, name in enumerate(names, start=1)}
    return found


def _write(table: datasets.Dataset, file: Path, names: Mapping[str, Mapping[str, str]]) -> None:
    """Write a table as parquet, less the paths of its files, and with other names for what is one's own."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = table.remove_columns(_KEPT_BACK).features.arrow_schema
    with (
        pq.ParquetWriter(file, schema) as writer,
        progress_bar(total=len(table), desc=file.name, unit=" clips") as progress,
    ):
        for rows in table.with_format("arrow").iter(batch_size=_ROW_GROUP):
            columns = {name: rows[name] for name in schema.names}
            for column, stands in names.items():
                columns[column] = pa.array([stands.get(name, name) for name in rows[column].to_pylist()])
            sounds = rows["audio"].combine_chunks()
            paths = pa.array([f"{clip}.wav" for clip in columns["id"].to_pylist()])
            columns["audio"] = pa.StructArray.from_arrays([sounds.field("bytes"), paths], names=["bytes", "path"])
            writer.write_table(pa.table(columns).cast(schema))
            progress.update(len(rows))
