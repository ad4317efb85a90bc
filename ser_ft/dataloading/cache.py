"""Caches of frames, statistics and hidden states: computed once per clip, kept in flat memory maps with offsets."""

from __future__ import annotations

import getpass
import hashlib
import inspect
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from filelock import BaseFileLock, FileLock
from torch.nn.utils.rnn import pad_sequence
from transformers.dynamic_module_utils import get_relative_import_files

from .. import audio
from ..models.classical import CLASSICAL_FUNCTIONALS, classical_feature_extractor, frame_statistics
from ..models.features import SpectralFeatureExtractor
from ..utils.atomic import claim_folder, explain_full_disk, release_folder, remove_abandoned
from ..utils.caches import cache_home
from ..utils.errors import InputError
from ..utils.files import nearest_existing
from ..utils.progress import progress_bar
from ..utils.readers import read_json

if TYPE_CHECKING:
    import datasets

_BATCH_SIZE = 32
_WEEK = 7 * 24 * 3600.0
_FLOAT16_MAX = float(np.finfo(np.float16).max)

# Takes the row numbers of this process, and yields the number and the array of each row.
ComputeArrays = Callable[[np.ndarray], Iterable[tuple[int, np.ndarray]]]


class FlatCache:
    """Arrays of one width and different lengths, one per clip: `cache[row]` has shape (frames, size)."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = folder = Path(folder)
        metadata = read_json(folder / "metadata.json")
        self.size = int(metadata["size"])
        index = np.load(folder / "index.npy")
        self._files, self._starts, self.lengths = index["file"], index["start"], index["length"]
        self._scales: np.ndarray = index["scale"]
        dtype = np.dtype(metadata["dtype"])
        files = [folder / f"frames-{number}.bin" for number in range(int(metadata["files"]))]
        empty = np.empty((0, self.size), dtype)
        self._frames = [
            np.memmap(file, dtype, "r").reshape(-1, self.size) if file.stat().st_size else empty for file in files
        ]

    def __reduce__(self) -> tuple[type[FlatCache], tuple[Path]]:
        """Pickle the path only: worker processes of a loader map the same files."""
        return FlatCache, (self.folder,)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> np.ndarray:
        start = self._starts[row]
        frames: np.ndarray = self._frames[self._files[row]][start : start + self.lengths[row]]
        scale = self._scales[row]
        return frames if scale == 1.0 else frames.astype(np.float32) * scale

    @classmethod
    def make(cls, folder: Path, clips: int, compute: ComputeArrays, dtype: str = "float32") -> FlatCache:
        """Open the cache in a folder; if there is none, compute it first. A cache is either complete or absent.

        The processes of a run divide the work; other runs on the same machine wait for it. With `dtype` "float16",
        clips that exceed its range are scaled.
        """
        state = PartialState()
        with _lock(folder) if state.num_processes == 1 and not _is_complete(folder) else nullcontext():
            cls._fill(folder, clips, compute, dtype)
        os.utime(folder / "metadata.json")
        return cls(folder)

    @staticmethod
    def _fill(folder: Path, clips: int, compute: ComputeArrays, dtype: str) -> None:
        state, exists = PartialState(), _is_complete(folder)
        # No process may start to write before all have checked.
        state.wait_for_everyone()
        if exists:
            return
        token = broadcast_object_list([secrets.token_hex(4)])[0]
        partial = folder.with_name(f".{folder.name}.{token}.{os.environ.get('GROUP_RANK', 0)}")
        world = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if state.num_processes > 1 else 1
        folder.parent.mkdir(parents=True, exist_ok=True)
        if state.is_local_main_process:
            remove_abandoned(folder.parent, f".{folder.name}.*")
            claim_folder(partial)
        partial.mkdir(exist_ok=True)
        try:
            with explain_full_disk(folder):
                rows = np.arange(state.local_process_index, clips, world)
                _write(partial, state.local_process_index, compute(rows), dtype)
                state.wait_for_everyone()
                if state.is_local_main_process:
                    _join(partial, world, clips, dtype)
                    _publish(partial, folder)
        finally:
            if state.is_local_main_process:
                release_folder(partial)
        state.wait_for_everyone()


class JoinedCache:
    """Caches of one width, concatenated."""

    def __init__(self, parts: Sequence[FlatCache]) -> None:
        self.parts, self.size = list(parts), parts[0].size
        self.lengths = np.concatenate([part.lengths for part in parts])
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> np.ndarray:
        part = int(np.searchsorted(self._ends, row, side="right"))
        return self.parts[part][row - (int(self._ends[part - 1]) if part else 0)]


Cache = FlatCache | JoinedCache


def _lock(folder: Path) -> BaseFileLock:
    name = hashlib.sha256(f"{getpass.getuser()} {folder.absolute()}".encode()).hexdigest()[:20]
    return FileLock(Path(tempfile.gettempdir()) / f"ser_ft-{name}.lock", is_singleton=True)


_INDEX = np.dtype([("row", "i8"), ("file", "i4"), ("start", "i8"), ("length", "i8"), ("scale", "f4")])


def _write(partial: Path, number: int, arrays: Iterable[tuple[int, np.ndarray]], dtype: str) -> None:
    entries, start, size = [], 0, 0
    with (partial / f"frames-{number}.bin").open("wb") as out:
        for row, array in arrays:
            scale = 1.0
            if dtype == "float16":
                largest = float(np.abs(array).max(initial=0.0))
                scale = max(1.0, largest / _FLOAT16_MAX)
                array = array / np.float32(scale) if scale > 1 else array
            out.write(np.ascontiguousarray(array, dtype=dtype).tobytes())
            entries.append((row, number, start, len(array), scale))
            start, size = start + len(array), array.shape[1]
    np.save(partial / f"index-{number}.npy", np.array(entries, dtype=_INDEX))
    (partial / f"size-{number}.txt").write_text(str(size), encoding="utf-8")


def _join(partial: Path, files: int, clips: int, dtype: str) -> None:
    index = np.concatenate([np.load(partial / f"index-{number}.npy") for number in range(files)])
    index = index[np.argsort(index["row"])]
    assert np.array_equal(index["row"], np.arange(clips)), "a row is missing"
    size = max(int((partial / f"size-{number}.txt").read_text(encoding="utf-8")) for number in range(files))
    np.save(partial / "index.npy", index)
    metadata = {"size": size, "dtype": dtype, "files": files}
    (partial / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")


def _publish(partial: Path, folder: Path) -> None:
    """Rename a complete cache, unless another run has completed the same cache in the meantime."""
    try:
        os.replace(partial, folder)
    except OSError:
        if not (folder / "metadata.json").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(partial, folder)


def cache_folder(table: datasets.Dataset, *dependencies: str) -> Path:
    """Return the folder of a cache of a prepared table that depends on its fingerprint and on `dependencies`."""
    key = " ".join((str(table._fingerprint), str(len(table)), *dependencies))
    return cache_home() / "features" / hashlib.sha256(key.encode()).hexdigest()[:20]


def update_hash(digest: hashlib._Hash, weights: Mapping[str, torch.Tensor]) -> None:
    """Update a hash with weights and their names."""
    for name, weight in weights.items():
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)


def make_room(folder: Path, expected: float) -> None:
    """Delete caches that were not used for a week, the oldest first, if `expected` bytes do not fit on the disk.

    Raises:
        InputError: the disk would be nearly full.
    """
    parent = nearest_existing(folder.absolute())
    outdated = sorted(folder.parent.glob("*/metadata.json"), key=lambda file: file.stat().st_mtime)
    while not _is_complete(folder) and expected > 0.9 * (free := shutil.disk_usage(parent).free):
        if outdated and time.time() - outdated[0].stat().st_mtime > _WEEK:
            shutil.rmtree(outdated.pop(0).parent, ignore_errors=True)
            continue
        raise InputError(
            f"the frozen states need {expected / 1e9:.1f} GB below {parent}, where {free / 1e9:.1f} GB are free: "
            "set SER_FT_CACHE to a larger disk, or use --tuning.cache false to compute the states in each epoch"
        )


def _is_complete(folder: Path) -> bool:
    return (folder / "metadata.json").is_file()


def compute_frames(
    table: datasets.Dataset, extractor: SpectralFeatureExtractor, show_progress: bool = True
) -> FlatCache:
    """Return the frames of each clip of a prepared table, computed once and cached.

    The cache depends on the table, and on the extractor's settings and code, but not on its statistics of the training
    clips or of a speaker, which are not applied to the frames.
    """
    source = inspect.getfile(type(extractor))
    files = (source, *sorted(get_relative_import_files(source)))
    code = "".join(Path(file).read_text(encoding="utf-8") for file in files)
    settings = {key: value for key, value in extractor.to_dict().items() if key not in ("mean", "scale")}

    def compute(rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        batches = (rows[start : start + _BATCH_SIZE] for start in range(0, len(rows), _BATCH_SIZE))
        for batch, clips in iter_waveforms(table, batches, len(rows), "features", show_progress):
            for row, frames in zip(batch, extract_frames(clips, extractor), strict=True):
                yield int(row), frames

    key = json.dumps(settings, sort_keys=True, default=str)
    return FlatCache.make(cache_folder(table, key, code), len(table), compute)


def compute_statistics(table: datasets.Dataset, show_progress: bool = True) -> np.ndarray:
    """Return the inputs of classical baselines for a prepared table, computed once and cached: shape (clips, size)."""
    frames = compute_frames(table, classical_feature_extractor(), show_progress)
    code = Path(inspect.getfile(frame_statistics)).read_text(encoding="utf-8")

    def compute(rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        for start in range(0, len(rows), _BATCH_SIZE):
            batch = rows[start : start + _BATCH_SIZE].tolist()
            clips = [torch.from_numpy(np.array(frames[row])) for row in batch]
            mask = pad_sequence([torch.ones(len(clip)) for clip in clips], batch_first=True)
            values = frame_statistics(pad_sequence(clips, batch_first=True), mask, CLASSICAL_FUNCTIONALS)
            yield from zip(batch, values[:, None].numpy(), strict=True)

    folder = cache_folder(table, frames.folder.name, code, repr(CLASSICAL_FUNCTIONALS))
    cache = FlatCache.make(folder, len(table), compute)
    return np.concatenate([cache[row] for row in range(len(cache))])


def extract_frames(clips: Sequence[np.ndarray], extractor: SpectralFeatureExtractor) -> list[np.ndarray]:
    """Return the frames of waveforms before standardization, each of shape (frames, size)."""
    waves = [torch.from_numpy(clip) for clip in clips]
    lengths = torch.tensor([len(wave) for wave in waves])
    features, mask = extractor.extract(pad_sequence(waves, batch_first=True), lengths)
    return [frames[:length].numpy() for frames, length in zip(features, mask.sum(dim=1).tolist(), strict=True)]


def iter_waveforms(
    table: datasets.Dataset, batches: Iterable[np.ndarray], total: int, description: str, show_progress: bool
) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """Yield the row numbers and waveforms (float32) of each batch, and update a progress bar of `total` clips."""
    column = table.select_columns(["audio"])
    progress: Any
    with progress_bar(total=total, desc=description, unit=" clips", show_progress=show_progress) as progress:
        for batch in batches:
            yield batch, [audio.from_wav(sound["bytes"]) for sound in column[batch.tolist()]["audio"]]
            progress.update(len(batch))
