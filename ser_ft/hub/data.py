"""Data sets on the Hub: a prepared table as parquet if its terms allow it, or only its card."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.corpora import CORPORA
from ..data.licenses import check_shared
from ..evaluation.provenance import PSEUDONYM_PREFIX
from ..evaluation.run_folder import RunFolder, explain_read_errors
from ..report.cards.data_card import data_card
from ..utils.progress import progress_bar
from .upload import Content, Upload

if TYPE_CHECKING:
    import datasets
    import pandas as pd

_SHARD_BYTES = 400_000_000
_BYTES_PER_SECOND = 32_000  # 16-bit samples at 16 kHz
_ROW_GROUP_CLIPS = 100  # what a reader of one clip has to download
_CARD_COLUMNS = ["corpus", "speaker", "duration", "emotion"]


def table_upload(folder: Path, name: str, accept_terms: bool, work: Path) -> Upload:
    """Collect a prepared table as parquet files, without the local paths of its recordings, and its card.

    The parquet files are written to `work`, which must exist until they are sent.
    """
    from ..data.prepare import corpus_info, open_prepared

    table = open_prepared(folder)
    corpora = corpus_info(table)
    check_shared(corpora, accept_terms)
    files: dict[str, Content] = {}
    pseudonyms = _pseudonyms(table)
    shards = math.ceil(_BYTES_PER_SECOND * sum(table["duration"]) / _SHARD_BYTES)
    for index in range(shards):
        file = work / f"train-{index:05d}-of-{shards:05d}.parquet"
        _write_parquet(table.shard(shards, index, contiguous=True), file, pseudonyms)
        files[f"data/{file.name}"] = file
    files["README.md"] = _table_card(folder, table, corpora, name, sound=True)
    paths = frozenset({str(folder.resolve())})
    return Upload(name, "dataset", files, "Recordings and their card, by ser_ft", allow_audio=True, private_paths=paths)


def card_upload(folder: Path, name: str) -> Upload:
    """Collect the card of a prepared table, without recordings."""
    from ..data.prepare import corpus_info, open_prepared

    table = open_prepared(folder)
    card = _table_card(folder, table, corpus_info(table), name, sound=False)
    return Upload(name, "dataset", {"README.md": card}, "The card of a data set, by ser_ft")


def card_upload_of_run(run: RunFolder, name: str) -> Upload:
    """Collect the card of the data that a run used, without recordings."""
    with explain_read_errors(run):
        clips = run.predictions.rename(columns={"label": "emotion"})
        metrics = run.metrics
        notes = metrics.get("notes") or {}
        corpora = {corpus: {**terms, "note": notes.get(corpus, "")} for corpus, terms in metrics["terms"].items()}
    card = data_card(name, clips[[*_CARD_COLUMNS, "part"]], metrics["classes"], corpora, sound=False, model=name)
    return Upload(name, "dataset", {"README.md": card.encode()}, f"The card of the data of {name}, by ser_ft")


def _table_card(
    folder: Path, table: datasets.Dataset, corpora: Mapping[str, Mapping[str, Any]], name: str, sound: bool
) -> bytes:
    from ..data.builder import SKIPPED_FILE, read_skipped

    skipped_file = folder / SKIPPED_FILE
    skipped = read_skipped(skipped_file) if skipped_file.is_file() else []
    classes = table.features["emotion"].names
    clips: pd.DataFrame = table.select_columns(_CARD_COLUMNS).to_pandas()
    clips["emotion"] = [classes[index] for index in clips["emotion"]]
    return data_card(name, clips, classes, corpora, sound=sound, skipped=skipped).encode()


def _pseudonyms(table: datasets.Dataset) -> dict[str, dict[str, str]]:
    """Number the clips and speakers of the user's own recordings: column -> name -> pseudonym."""
    pseudonyms = {}
    for column, noun in (("id", "clip"), ("speaker", "speaker")):
        names = {name for corpus, name in zip(table["corpus"], table[column], strict=True) if corpus not in CORPORA}
        numbered = enumerate(sorted(names), start=1)
        pseudonyms[column] = {name: f"{PSEUDONYM_PREFIX}{noun}-{number}" for number, name in numbered}
    return pseudonyms


def _write_parquet(table: datasets.Dataset, file: Path, pseudonyms: Mapping[str, Mapping[str, str]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = table.remove_columns(["path"]).features.arrow_schema
    with (
        pq.ParquetWriter(file, schema) as writer,
        progress_bar(total=len(table), desc=file.name, unit=" clips") as progress,
    ):
        for rows in table.with_format("arrow").iter(batch_size=_ROW_GROUP_CLIPS):
            columns = {name: rows[name] for name in schema.names}
            for column, replacements in pseudonyms.items():
                columns[column] = pa.array([replacements.get(name, name) for name in rows[column].to_pylist()])
            recordings = rows["audio"].combine_chunks()
            paths = pa.array([f"{clip}.wav" for clip in columns["id"].to_pylist()])
            columns["audio"] = pa.StructArray.from_arrays([recordings.field("bytes"), paths], names=["bytes", "path"])
            writer.write_table(pa.table(columns).cast(schema))
            progress.update(len(rows))
