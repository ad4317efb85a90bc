"""Recognise the emotion in archives that outgrow one machine: Ray Data reads, recognises and writes on all of them.

    pip install "ray[data]"
    python recipes/predict_ray.py s3://archive/calls --out s3://archive/answers
    python recipes/predict_ray.py data/*.parquet --column audio --out answers --model runs/mine/model.onnx

It connects to the cluster that RAY_ADDRESS names, and starts Ray on this machine where that is not set. The model must
lie at the same place on every machine, or be the one that ships with ser_ft; and so must sources that are files of this
machine. Which files of a folder are taken is as with `ser-ft predict`. What is written are Parquet files with a row a
sound, in no fixed order: path, emotion, a probability per class, uncertain, and error, which says why there is no
answer. Where a worker dies, Ray does its part again, and each sound is still in the answers once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
from pyarrow.dataset import dataset

from ser_ft.audio import AudioError
from ser_ft.audio.discovery import SOUND_SUFFIXES, SoundFile, find_sound_files
from ser_ft.inference.backends import open_backend
from ser_ft.inference.backends.onnx import OnnxBackend
from ser_ft.inference.inputs import AudioInput
from ser_ft.inference.recognizer import EmotionRecognizer
from ser_ft.utils.errors import InputError, run_command, strip_debug_flag

# Shares of a core as Ray plans with them. Reading and writing mostly wait; workers that took whole cores would leave
# none for the tasks that Ray itself begins with, and wait for them for ever.
_WAITING: dict[str, Any] = {"num_cpus": 0.1}
_WORKING = {"num_cpus": 0.5, "scheduling_strategy": "SPREAD"}
# Sounds that are recognised together, and files of answers, at most.
_BATCH = 32
_PARTS = 1000
# Of the list of files: names need not be text.
_LIST = pa.schema([("name", pa.binary()), ("error", pa.string())])


class Reader:
    """Reads files of a store; one that cannot be read is a row with an error."""

    def __init__(self, store: Any) -> None:
        self.store = store

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return a batch of the list with the bytes of its files."""
        contents, errors = [], []
        for row in batch.to_pylist():
            content, error = None, row["error"]
            if error is None:
                try:
                    content = self.store.cat_file(os.fsdecode(row["name"]))
                except Exception as problem:  # which a store is free to choose
                    error = f"cannot be read ({' '.join(str(problem).split())[:200] or type(problem).__name__})"
            contents.append(content)
            errors.append(error)
        columns = {"name": batch.column("name"), "error": pa.array(errors, pa.string())}
        return pa.table({**columns, "bytes": pa.array(contents, pa.large_binary())})


class Recogniser:
    """One worker: it holds the model, and answers batches of a list of files, or of tables where a column is named."""

    def __init__(self, model: str | None, column: str | None) -> None:
        self.column = column
        self.recognizer = EmotionRecognizer(model, threads=1)
        self.schema = schema(self.recognizer.info.classes)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return a row for each sound of a batch."""
        rows: list[dict[str, Any]] = []
        items = _files(batch) if self.column is None else _cells(batch, self.column)
        for item, outcome in self.recognizer.iter_predictions(items):
            # Names of files need not be text, and a column is.
            path = item.path and item.path.encode("utf-8", "backslashreplace").decode()
            if isinstance(outcome, AudioError):
                rows.append({"path": path, "error": str(outcome).removeprefix(f"{item.name}: ")})
            else:
                rows.append({**outcome["scores"], **outcome, "path": path})
        return pa.Table.from_pylist(rows, self.schema)


def schema(classes: Sequence[str]) -> pa.Schema:
    """Return the columns of the answers of a model with these classes."""
    shares = [(name, pa.float64()) for name in classes]
    return pa.schema(
        [("path", pa.string()), ("emotion", pa.string()), *shares, ("uncertain", pa.bool_()), ("error", pa.string())]
    )


def _files(batch: pa.Table) -> Iterator[AudioInput]:
    """Yield the sounds of a list of files: of this machine's, or with the bytes that `Reader` read."""
    for row in batch.to_pylist():
        path = os.fsdecode(row["name"])
        yield AudioInput(path, path, row["bytes"] or b"" if "bytes" in row else Path(path), row["error"])


def _cells(batch: pa.Table, column: str) -> Iterator[AudioInput]:
    """Yield the sounds of a table, whose column holds bytes, or {"bytes", "path"} as `datasets` writes it."""
    paths = batch.column("path").to_pylist() if "path" in batch.column_names else [None] * len(batch)
    for sound, beside in zip(batch.column(column), paths, strict=True):
        content = sound.as_py()
        within = content if isinstance(content, dict) else {"bytes": content}
        path = next((str(one) for one in (beside, within.get("path")) if one is not None), None)
        # Text would be taken for the name of a file to open.
        held = within.get("bytes")
        error = None if isinstance(held, bytes) else "no bytes in this row"
        yield AudioInput(path, path or "sound", held if isinstance(held, bytes) else b"", error)


def predict(
    sources: Sequence[str], out: str, model: str | None = None, column: str | None = None, workers: int | None = None
) -> int:
    """Recognise an archive.

    Args:
        sources: folders or files, at any address that fsspec knows. out: a folder at such an address.
        model: as `EmotionRecognizer` takes it. column: of Parquet files, which then are the sources.
        workers: by default one per GPU of the cluster that the model can use, or per core where there is none.

    Returns:
        How many sounds have a row.

    Raises:
        InputError: there is something at `out`, nothing at a source, no sound in them or no such column, no such model,
            or Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise InputError('Ray is not installed: pip install "ray[data]"') from error
    from fsspec.core import url_to_fs

    if workers is not None and workers < 1:
        raise InputError(f"--workers must be 1 or more, not {workers}")
    target, folder = url_to_fs(out)
    if target.exists(folder) and (not target.isdir(folder) or target.ls(folder)):
        raise InputError(f"--out {out}: is there already: name another")
    store, found = _listed(sources, SOUND_SUFFIXES if column is None else (".parquet",))
    if column is not None:
        _check_column(store, found, column)
    engine = open_backend(model, "cpu")  # or say at once what is wrong with it
    there = _cluster(ray)
    on_gpus = bool(there.get("GPU")) and not isinstance(engine, OnnxBackend)
    count = workers or int(there["GPU"] if on_gpus else there["CPU"])
    if column is None:
        batch = max(1, min(_BATCH, len(found) // (4 * count)))
        sounds: Any = ray.data.from_arrow(_tables(found, batch))
        if not _is_here(store):
            sounds = sounds.map_batches(Reader(store), batch_size=8, batch_format="pyarrow", **_WAITING)
    else:
        batch, paths = _BATCH, [one.path for one in found]
        reader: Any = None if _is_here(store) else store
        sounds = ray.data.read_parquet(paths, filesystem=reader, file_extensions=None, ray_remote_args=_WAITING)
    answers = sounds.map_batches(
        Recogniser,
        fn_constructor_args=(model, column),
        batch_size=batch,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=count),
        **({"num_gpus": 1} if on_gpus else _WORKING),
    )
    answers.write_parquet(folder, filesystem=None if _is_here(target) else target, ray_remote_args=_WAITING)
    return int(dataset(folder, filesystem=target, format="parquet").count_rows())


def _cluster(ray: Any) -> dict[str, float]:
    """Connect to the cluster, or start one; return what it has."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if "RAY_ADDRESS" in os.environ:
        ray.init(ignore_reinit_error=True)
    else:
        # Another that runs on this machine is left alone.
        ray.init("local", num_cpus=max(2, os.cpu_count() or 1), ignore_reinit_error=True)
    resources: dict[str, float] = ray.cluster_resources()
    return resources


def _listed(sources: Sequence[str], suffixes: tuple[str, ...]) -> tuple[Any, list[SoundFile]]:
    """Return the store of the sources, and their files, each once."""
    from fsspec.core import url_to_fs

    places = [url_to_fs(source) for source in sources]
    store = places[0][0]
    for source, (where, path) in zip(sources, places, strict=True):
        if where != store:
            raise InputError(f"{source}: lies in another store than {sources[0]}: give the sources of one at a time")
        if not store.exists(path):
            raise InputError(f"{source}: nothing is there")
    paths = [path for _, path in places]
    every = find_sound_files(paths, suffixes) if _is_here(store) else _in_store(store, paths, suffixes)
    found = list({one.path: one for one in every}.values())
    if not found:
        what = "sound" if suffixes is SOUND_SUFFIXES else "Parquet"
        raise InputError(f"{', '.join(sources)}: no {what} files there")
    return store, found


def _in_store(store: Any, paths: Sequence[str], suffixes: tuple[str, ...]) -> Iterator[SoundFile]:
    """List a store's files by the rules of `find_sound_files`."""
    for path in paths:
        if store.isfile(path):
            yield SoundFile(path)
            continue
        top = path.rstrip("/") + "/"
        for name in sorted(store.find(path)):
            hidden = any(part.startswith(".") for part in name.removeprefix(top).split("/"))
            if not hidden and name.lower().endswith(suffixes):
                yield SoundFile(name)


def _is_here(store: Any) -> bool:
    """Say whether a store is this machine's files."""
    return "file" in store.protocol


def _tables(found: Sequence[SoundFile], batch: int) -> list[pa.Table]:
    """Return the list of files in parts: what a worker is given, and does again where one dies."""
    size = max(batch, -(-len(found) // _PARTS))
    return [
        pa.Table.from_pylist(
            [{"name": os.fsencode(one.path), "error": one.error} for one in found[first : first + size]], _LIST
        )
        for first in range(0, len(found), size)
    ]


def _check_column(store: Any, found: Sequence[SoundFile], column: str) -> None:
    """Refuse a column that is not there, or holds no bytes: text would be taken for names of files to open."""
    for one in found:
        if one.error is not None:
            raise InputError(f"{one.path}: {one.error}")
    file = found[0].path
    try:
        columns = parquet.read_schema(file, filesystem=store)
    except pa.ArrowInvalid as error:
        raise InputError(f"{file}: no Parquet file ({error})") from error
    if column not in columns.names:
        raise InputError(f"{file}: has no column {column!r}, but {', '.join(columns.names)}")
    kind = columns.field(column).type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)):
        raise InputError(
            f'{file}: column {column!r} holds {kind}, and not the bytes of sound files, or {{"bytes", ...}}'
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the recipe; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="folders or files, here or at s3://, gs://, ...")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where the answers go")
    parser.add_argument(
        "--model", help="a run folder, an .onnx file or a name on the Hub (default: the one that ships)"
    )
    parser.add_argument("--column", help="the sources are Parquet files, whose column of this name holds the sound")
    parser.add_argument(
        "--workers", type=int, help="how many recognise (default: one per GPU that the model can use, or per core)"
    )
    chosen = parser.parse_args(strip_debug_flag(arguments))

    def work() -> None:
        rows = predict(chosen.sources, chosen.out, chosen.model, chosen.column, chosen.workers)
        print(f"{rows} sounds: {chosen.out}")

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
