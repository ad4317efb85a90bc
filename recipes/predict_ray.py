"""Recognise the emotion in archives that outgrow one machine: Ray Data reads, recognises and writes on all of them.

    pip install "ser_ft[ray]"
    python recipes/predict_ray.py s3://archive/calls --out s3://archive/answers
    python recipes/predict_ray.py data/*.parquet --column audio --out answers --model runs/mine/model.onnx

It connects to the cluster that RAY_ADDRESS names, and starts Ray on this machine where there is none. The model must
lie at the same place on every machine, or be the one that ships with ser_ft. What is written are Parquet files with a
row a sound, in no fixed order: path, emotion, a probability per class, uncertain, and error, which says why there is no
answer. Where a worker dies, Ray does its part again, and each sound is still in the answers once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
from pyarrow.dataset import dataset

from ser_ft.audio import FFMPEG_SUFFIXES, SUFFIXES, AudioError
from ser_ft.errors import InputError, guarded
from ser_ft.recognition.engines import open_engine
from ser_ft.recognition.recognizer import EmotionRecognizer
from ser_ft.recognition.sounds import Item

# Shares of a core as Ray plans with them. Reading and writing mostly wait; workers that took whole cores would leave
# none for the tasks that Ray itself begins with, and wait for them for ever.
_WAITING = {"num_cpus": 0.1}
_WORKING = {"num_cpus": 0.5, "scheduling_strategy": "SPREAD"}


class Recogniser:
    """One worker: it holds the model, and answers batches."""

    def __init__(self, model: str | None, column: str) -> None:
        self.column = column
        self.recognizer = EmotionRecognizer(model, threads=1)
        self.schema = schema(self.recognizer.facts.classes)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return a row for each sound of a batch."""
        rows: list[dict[str, Any]] = []
        for item, outcome in self.recognizer.each(_items(batch, self.column)):
            if isinstance(outcome, AudioError):
                rows.append({"path": item.path, "error": str(outcome).removeprefix(f"{item.name}: ")})
            else:
                rows.append({**outcome["scores"], **outcome})
        return pa.Table.from_pylist(rows, self.schema)


def schema(classes: Sequence[str]) -> pa.Schema:
    """Return the columns of the answers of a model with these classes."""
    shares = [(name, pa.float64()) for name in classes]
    return pa.schema(
        [("path", pa.string()), ("emotion", pa.string()), *shares, ("uncertain", pa.bool_()), ("error", pa.string())]
    )


def _items(batch: pa.Table, column: str) -> Iterator[Item]:
    """Yield the sounds of a batch, whose column holds bytes, or {"bytes", "path"} as `datasets` writes it."""
    paths = batch.column("path").to_pylist() if "path" in batch.column_names else [None] * len(batch)
    for sound, beside in zip(batch.column(column), paths, strict=True):
        content = sound.as_py()
        within = content if isinstance(content, dict) else {"bytes": content}
        path = beside or within.get("path")
        error = None if within["bytes"] is not None else "no bytes in this row"
        yield Item(path, path or "sound", within["bytes"] or b"", error)


def predict(
    sources: Sequence[str], out: str, model: str | None = None, column: str | None = None, workers: int | None = None
) -> int:
    """Recognise an archive.

    Args:
        sources: folders or files, at any address that fsspec knows. out: a folder at such an address.
        model: as `EmotionRecognizer` takes it. column: of Parquet files, which then are the sources.
        workers: by default one per GPU of the cluster, or per core where there is none.

    Returns:
        How many sounds have a row.

    Raises:
        InputError: there is something at `out`, nothing at a source, no such model, or Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise InputError('Ray is not installed: pip install "ser_ft[ray]"') from error
    from fsspec.core import url_to_fs

    store, folder = url_to_fs(out)
    if store.exists(folder) and (not store.isdir(folder) or store.ls(folder)):
        raise InputError(f"--out {out}: is there already: name another")
    found = [url_to_fs(source) for source in sources]
    for source, (where, path) in zip(sources, found, strict=True):
        if where != found[0][0]:
            raise InputError(f"{source}: lies in another store than {sources[0]}: give the sources of one at a time")
        if not where.exists(path):
            raise InputError(f"{source}: nothing is there")
    open_engine(model, "cpu")  # or say at once what is wrong with it
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    cores = None if "RAY_ADDRESS" in os.environ else max(2, os.cpu_count() or 1)
    ray.init(num_cpus=cores, ignore_reinit_error=True)
    there = ray.cluster_resources()
    each = {"num_gpus": 1} if there.get("GPU") else _WORKING
    count = workers or int(there.get("GPU") or there["CPU"])
    paths, options = [path for _, path in found], {"filesystem": _reader(found[0][0]), "ray_remote_args": _WAITING}
    if column is None:
        suffixes = [suffix.removeprefix(".") for suffix in SUFFIXES | FFMPEG_SUFFIXES]
        sounds = ray.data.read_binary_files(paths, include_paths=True, file_extensions=suffixes, **options)
    else:
        sounds = ray.data.read_parquet(paths, **options)
    answers = sounds.map_batches(
        Recogniser,
        fn_constructor_args=(model, column or "bytes"),
        batch_size=32,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=count),
        **each,
    )
    answers.write_parquet(folder, filesystem=_reader(store), ray_remote_args=_WAITING)
    return int(dataset(folder, filesystem=store, format="parquet").count_rows())


def _reader(store: Any) -> Any:
    """Return what Ray reads a store with: for this machine's files, its own way, which follows links."""
    return None if "file" in store.protocol else store


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the recipe; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="folders or files, here or at s3://, gs://, ...")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where the answers go")
    parser.add_argument(
        "--model", help="a run folder, an .onnx file or a name on the Hub (default: the one that ships)"
    )
    parser.add_argument("--column", help="the sources are Parquet files, whose column of this name holds the sound")
    parser.add_argument("--workers", type=int, help="how many recognise (default: one per GPU, or per core)")
    chosen = parser.parse_args(arguments)

    def work() -> None:
        rows = predict(chosen.sources, chosen.out, chosen.model, chosen.column, chosen.workers)
        print(f"{rows} sounds: {chosen.out}")

    return guarded(work)


if __name__ == "__main__":
    sys.exit(main())
