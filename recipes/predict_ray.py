"""Recognize the emotion in archives that are too large for one machine, with Ray Data on a cluster.

    pip install "ray[data]"
    python recipes/predict_ray.py s3://archive/calls --out s3://archive/predictions
    python recipes/predict_ray.py data/*.parquet --column audio --out predictions --model runs/mine/model.onnx

The recipe connects to the cluster of RAY_ADDRESS, or starts Ray on this machine if that is not set. The model and local
sources must have the same path on every machine; the model that is part of ser_ft always has. Folders are searched as
by `ser-ft predict`. The output is a folder of Parquet files with one row per clip, in no fixed order: path, emotion,
one probability per class, uncertain, and error, the reason if there is no prediction. If a worker dies, Ray repeats its
part, and each clip still has one row.
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
from ser_ft.audio.discovery import SOUND_SUFFIXES, SoundFile, find_sound_files, is_hidden
from ser_ft.cli.arguments import Parser
from ser_ft.inference.backends import open_backend
from ser_ft.inference.backends.onnx import OnnxBackend
from ser_ft.inference.inputs import AudioInput
from ser_ft.inference.recognizer import EmotionRecognizer
from ser_ft.utils.errors import InputError, raise_machine_failure, run_command, strip_debug_flag
from ser_ft.utils.files import output_lock
from ser_ft.utils.text import print_text

# Shares of a core for Ray's scheduler. Reading and writing mostly wait. If the workers took whole cores, Ray's own
# first tasks would never get one, and the workers would wait for them forever.
_IO_RESOURCES: dict[str, Any] = {"num_cpus": 0.1}
_WORKER_RESOURCES = {"num_cpus": 0.5, "scheduling_strategy": "SPREAD"}
_MAX_BATCH_SIZE = 32
_MAX_PARTS = 1000
# File names are not always valid text.
_FILE_LIST = pa.schema([("name", pa.binary()), ("error", pa.string())])


class Reader:
    """Reads the files of a remote store. A file that cannot be read becomes a row with an error."""

    def __init__(self, store: Any) -> None:
        self.store = store

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Add the contents of the files to a batch of the file list."""
        contents, errors = [], []
        for row in batch.to_pylist():
            content, error = None, row["error"]
            if error is None:
                try:
                    content = self.store.cat_file(os.fsdecode(row["name"]))
                except Exception as problem:  # each store has exceptions of its own
                    raise_machine_failure(problem)
                    error = f"cannot be read ({' '.join(str(problem).split())[:200] or type(problem).__name__})"
            contents.append(content)
            errors.append(error)
        columns = {"name": batch.column("name"), "error": pa.array(errors, pa.string())}
        return pa.table({**columns, "bytes": pa.array(contents, pa.large_binary())})


class Recognizer:
    """A worker, which predicts batches of the file list, or of tables if a column is named."""

    def __init__(self, model: str | None, column: str | None, allow_pickle: bool = False) -> None:
        self.column = column
        self.recognizer = EmotionRecognizer(model, threads=1, allow_pickle=allow_pickle)
        self.schema = schema(self.recognizer.info.classes)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return one row for each clip of a batch."""
        rows: list[dict[str, Any]] = []
        items = _files(batch) if self.column is None else _cells(batch, self.column)
        for item, outcome in self.recognizer.iter_predictions(items):
            # A file name is not always valid text, but a column must be.
            path = item.path and item.path.encode("utf-8", "backslashreplace").decode()
            if isinstance(outcome, AudioError):
                rows.append({"path": path, "error": str(outcome).removeprefix(f"{item.name}: ")})
            else:
                rows.append({**outcome["scores"], **outcome, "path": path})
        return pa.Table.from_pylist(rows, self.schema)


def schema(classes: Sequence[str]) -> pa.Schema:
    """Return the columns of the predictions of a model with these classes."""
    text, probabilities = pa.string(), [(name, pa.float64()) for name in classes]
    return pa.schema([("path", text), ("emotion", text), *probabilities, ("uncertain", pa.bool_()), ("error", text)])


def _files(batch: pa.Table) -> Iterator[AudioInput]:
    for row in batch.to_pylist():
        path = os.fsdecode(row["name"])
        yield AudioInput(path, path, row["bytes"] or b"" if "bytes" in row else Path(path), row["error"])


def _cells(batch: pa.Table, column: str) -> Iterator[AudioInput]:
    """Yield the inputs of a table whose column holds bytes, or {"bytes", "path"} as `datasets` writes it."""
    paths = batch.column("path").to_pylist() if "path" in batch.column_names else [None] * len(batch)
    for cell, row_path in zip(batch.column(column), paths, strict=True):
        value = cell.as_py()
        fields = value if isinstance(value, dict) else {"bytes": value}
        path = next((str(name) for name in (row_path, fields.get("path")) if name is not None), None)
        # Text is rejected, because it would be the path of a file to open.
        content = fields.get("bytes")
        error = None if isinstance(content, bytes) else "no bytes in this row"
        yield AudioInput(path, path or "sound", content if isinstance(content, bytes) else b"", error)


def predict(
    sources: Sequence[str],
    out: str,
    model: str | None = None,
    column: str | None = None,
    workers: int | None = None,
    allow_pickle: bool = False,
) -> int:
    """Recognize an archive, and return the number of rows.

    Args:
        sources: Folders or files, at any address that fsspec supports.
        out: A folder at such an address.
        model: See `EmotionRecognizer`.
        column: The column with the audio, if the sources are Parquet files.
        workers: Number of workers. None: one per GPU of the cluster if the model can use it, else one per core.
        allow_pickle: Also load pickled weights.

    Raises InputError if `out` exists, if a source, its audio, the column or the model does not, or if Ray is missing.
    """
    try:
        import ray
    except ImportError as error:
        raise InputError('Ray is not installed: pip install "ray[data]"') from error
    from fsspec.core import url_to_fs

    if workers is not None and workers < 1:
        raise InputError(f"--workers must be 1 or more, not {workers}")
    target, folder = url_to_fs(out)
    with output_lock(folder if _is_local(target) else None):
        if target.exists(folder) and (not target.isdir(folder) or target.ls(folder)):
            raise InputError(f"{out}: already exists; choose another --out")
        store, files = _list_files(sources, SOUND_SUFFIXES if column is None else (".parquet",))
        if column is not None:
            _check_column(store, files, column)
        # Raises an InputError if there is something wrong with the model.
        backend = open_backend(model, "cpu", allow_pickle=allow_pickle)
        resources = _connect(ray)
        on_gpus = bool(resources.get("GPU")) and not isinstance(backend, OnnxBackend)
        count = workers or int(resources["GPU"] if on_gpus else resources["CPU"])
        if column is None:
            batch_size = max(1, min(_MAX_BATCH_SIZE, len(files) // (4 * count)))
            inputs: Any = ray.data.from_arrow(_file_tables(files, batch_size))
            if not _is_local(store):
                inputs = inputs.map_batches(Reader(store), batch_size=8, batch_format="pyarrow", **_IO_RESOURCES)
        else:
            batch_size, paths = _MAX_BATCH_SIZE, [file.path for file in files]
            reader: Any = None if _is_local(store) else store
            inputs = ray.data.read_parquet(
                paths, filesystem=reader, file_extensions=None, ray_remote_args=_IO_RESOURCES
            )
        predictions = inputs.map_batches(
            Recognizer,
            fn_constructor_args=(model, column, allow_pickle),
            batch_size=batch_size,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=count),
            **({"num_gpus": 1} if on_gpus else _WORKER_RESOURCES),
        )
        predictions.write_parquet(
            folder, filesystem=None if _is_local(target) else target, ray_remote_args=_IO_RESOURCES
        )
        return int(dataset(folder, filesystem=target, format="parquet").count_rows())


def _connect(ray: Any) -> dict[str, float]:
    if "RAY_ADDRESS" in os.environ:
        ray.init(ignore_reinit_error=True)
    else:
        # Not a cluster that already runs on this machine.
        ray.init("local", num_cpus=max(2, os.cpu_count() or 1), ignore_reinit_error=True)
    resources: dict[str, float] = ray.cluster_resources()
    return resources


def _list_files(sources: Sequence[str], suffixes: tuple[str, ...]) -> tuple[Any, list[SoundFile]]:
    from fsspec.core import url_to_fs

    locations = [url_to_fs(source) for source in sources]
    store = locations[0][0]
    for source, (other_store, path) in zip(sources, locations, strict=True):
        if other_store != store:
            hint = "pass the sources of one store at a time"
            raise InputError(f"{source}: is in another store than {sources[0]}: {hint}")
        if not store.exists(path):
            raise InputError(f"{source}: does not exist")
    paths = [path for _, path in locations]
    listing = find_sound_files(paths, suffixes) if _is_local(store) else _list_store(store, paths, suffixes)
    files = list({file.path: file for file in listing}.values())
    if not files:
        kind = "sound" if suffixes is SOUND_SUFFIXES else "Parquet"
        raise InputError(f"{', '.join(sources)}: no {kind} files there")
    return store, files


def _list_store(store: Any, paths: Sequence[str], suffixes: tuple[str, ...]) -> Iterator[SoundFile]:
    """List the files of a remote store by the rules of `find_sound_files`."""
    for path in paths:
        if store.isfile(path):
            yield SoundFile(path)
            continue
        top = path.rstrip("/") + "/"
        for name in sorted(store.find(path)):
            if not is_hidden(name.removeprefix(top)) and name.lower().endswith(suffixes):
                yield SoundFile(name)


def _is_local(store: Any) -> bool:
    return "file" in store.protocol


def _file_tables(files: Sequence[SoundFile], batch_size: int) -> list[pa.Table]:
    """Return the file list in parts. If a worker dies, its part is repeated."""
    rows = [{"name": os.fsencode(file.path), "error": file.error} for file in files]
    size = max(batch_size, -(-len(rows) // _MAX_PARTS))
    return [pa.Table.from_pylist(rows[first : first + size], _FILE_LIST) for first in range(0, len(rows), size)]


def _check_column(store: Any, files: Sequence[SoundFile], column: str) -> None:
    """Check that the column exists and holds bytes. Text is rejected: it would be the paths of files to open."""
    for file in files:
        if file.error is not None:
            raise InputError(f"{file.path}: {file.error}")
    path = files[0].path
    try:
        columns = parquet.read_schema(path, filesystem=store)
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: not a Parquet file ({error})") from error
    if column not in columns.names:
        raise InputError(f"{path}: has no column {column!r}, but {', '.join(columns.names)}")
    kind = columns.field(column).type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)):
        raise InputError(f'{path}: column {column!r} holds {kind}, not the bytes of sound files or {{"bytes", ...}}')


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the recipe and return its exit code."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="folders or files, local or at s3://, gs://, ...")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder for the predictions")
    parser.add_argument(
        "--model", help="a run folder, an .onnx file or a name on the Hub (default: the model that is part of ser_ft)"
    )
    parser.add_argument("--column", help="column with the audio, if the sources are Parquet files")
    parser.add_argument(
        "--workers", type=int, help="number of workers (default: one per GPU that the model can use, or per core)"
    )
    parser.add_argument("--allow-pickle", action="store_true", help="also load pickled weights, which can hold code")

    def work() -> None:
        options = parser.parse_args(strip_debug_flag(arguments))
        rows = predict(**vars(options))
        print_text(f"{rows} clips: {options.out}")

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
