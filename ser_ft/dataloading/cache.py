"""What no gradient reaches is computed once per clip, and kept in flat memory maps with offsets."""

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
from transformers.dynamic_module_utils import get_relative_import_files

from .. import audio
from ..data.prepare import cache_home
from ..models.classical import CLASSICAL_FUNCTIONALS, classical_feature_extractor, frame_statistics
from ..models.features import SpectralFeatureExtractor
from ..utils.errors import InputError
from ..utils.files import nearest_existing
from ..utils.progress import progress_bar

if TYPE_CHECKING:
    import datasets

_BATCH = 32
_WEEK = 7 * 24 * 3600.0
_LARGEST_HALF = float(np.finfo(np.float16).max)

# Of the rows that are this process's: each row's number, and its array.
Arrays = Callable[[np.ndarray], Iterable[tuple[int, np.ndarray]]]


class FlatCache:
    """Arrays of one width and of any length, one per clip, in a few files: `cache[row]` has shape (frames, size).

    Attributes:
        lengths: frames of each clip, shape (clips,).
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = folder = Path(folder)
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        self.size = int(about["size"])
        index = np.load(folder / "index.npy")
        self._files, self._starts, self.lengths = index["file"], index["start"], index["length"]
        self._scales: np.ndarray = index["scale"]
        dtype = np.dtype(about["dtype"])
        self._frames = [
            np.memmap(folder / f"frames-{number}.bin", dtype=dtype, mode="r").reshape(-1, self.size)
            if (folder / f"frames-{number}.bin").stat().st_size
            else np.empty((0, self.size), dtype)
            for number in range(int(about["files"]))
        ]

    def __reduce__(self) -> tuple[type[FlatCache], tuple[Path]]:
        """Travel to a loader's process as a path: the frames stay where they are."""
        return FlatCache, (self.folder,)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> np.ndarray:
        start = self._starts[row]
        found: np.ndarray = self._frames[self._files[row]][start : start + self.lengths[row]]
        scale = self._scales[row]
        return found if scale == 1.0 else found.astype(np.float32) * scale

    @classmethod
    def make(cls, folder: Path, clips: int, arrays: Arrays, dtype: str = "float32") -> FlatCache:
        """Open the cache in a folder; where there is none, fill it: it appears whole or not at all.

        The processes of a machine share the work.

        Args:
            folder: of the cache. clips: how many rows. arrays: from row numbers to arrays, in any order.
            dtype: float32, or float16; a clip that half precision cannot hold is scaled.
        """
        state = PartialState()
        # Runs side by side wait for the one that computes; the processes of one run share the work.
        with _turn(folder) if state.num_processes == 1 and not _whole(folder) else nullcontext():
            cls._fill(folder, clips, arrays, dtype)
        os.utime(folder / "about.json")
        return cls(folder)

    @staticmethod
    def _fill(folder: Path, clips: int, arrays: Arrays, dtype: str) -> None:
        if not _there(folder):
            state = PartialState()
            token = broadcast_object_list([secrets.token_hex(4)])[0]
            partial = folder.with_name(f".{folder.name}.{token}.{os.environ.get('GROUP_RANK', 0)}")
            world = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if state.num_processes > 1 else 1
            partial.mkdir(parents=True, exist_ok=True)
            try:
                mine = np.arange(state.local_process_index, clips, world)
                _write(partial, state.local_process_index, arrays(mine), dtype)
                state.wait_for_everyone()
                if state.is_local_main_process:
                    _join(partial, world, clips, dtype)
                    _put(partial, folder)
            finally:
                if state.is_local_main_process:
                    shutil.rmtree(partial, ignore_errors=True)
            state.wait_for_everyone()


class JoinedCache:
    """Caches one behind the other, as one.

    Args:
        parts: of one width.
    """

    def __init__(self, parts: Sequence[FlatCache]) -> None:
        self.parts, self.size = list(parts), parts[0].size
        self.lengths = np.concatenate([part.lengths for part in parts])
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> np.ndarray:
        place = int(np.searchsorted(self._ends, row, side="right"))
        return self.parts[place][row - (int(self._ends[place - 1]) if place else 0)]


Cache = FlatCache | JoinedCache


def _turn(folder: Path) -> BaseFileLock:
    """Return a lock that one process of a user holds at a time for a folder; it lies where nobody counts files."""
    known = hashlib.sha256(f"{getpass.getuser()} {folder.absolute()}".encode()).hexdigest()[:20]
    return FileLock(Path(tempfile.gettempdir()) / f"ser_ft-{known}.lock", is_singleton=True)


def _there(folder: Path) -> bool:
    """Say whether a cache is whole; all processes of a machine get one answer."""
    found = (folder / "about.json").is_file()
    # Nobody may begin to write before all have looked.
    PartialState().wait_for_everyone()
    return found


_INDEX = np.dtype([("row", "i8"), ("file", "i4"), ("start", "i8"), ("length", "i8"), ("scale", "f4")])


def _write(partial: Path, number: int, arrays: Iterable[tuple[int, np.ndarray]], dtype: str) -> None:
    """Write one process's arrays one after the other, and where each lies."""
    entries, start, size = [], 0, 0
    with (partial / f"frames-{number}.bin").open("wb") as out:
        for row, array in arrays:
            scale = 1.0
            if dtype == "float16":
                largest = float(np.abs(array).max(initial=0.0))
                scale = max(1.0, largest / _LARGEST_HALF)
                array = array / np.float32(scale) if scale > 1 else array
            out.write(np.ascontiguousarray(array, dtype=dtype).tobytes())
            entries.append((row, number, start, len(array), scale))
            start, size = start + len(array), array.shape[1]
    np.save(partial / f"index-{number}.npy", np.array(entries, dtype=_INDEX))
    (partial / f"size-{number}.txt").write_text(str(size), encoding="utf-8")


def _join(partial: Path, files: int, clips: int, dtype: str) -> None:
    """Put the processes' indices together, and make the cache whole."""
    index = np.concatenate([np.load(partial / f"index-{number}.npy") for number in range(files)])
    index = index[np.argsort(index["row"])]
    assert np.array_equal(index["row"], np.arange(clips)), "a row was left out"
    size = max(int((partial / f"size-{number}.txt").read_text(encoding="utf-8")) for number in range(files))
    np.save(partial / "index.npy", index)
    about = {"size": size, "dtype": dtype, "files": files}
    (partial / "about.json").write_text(json.dumps(about), encoding="utf-8")


def _put(partial: Path, folder: Path) -> None:
    """Move a whole cache to its place, unless another process has put one there meanwhile."""
    try:
        os.replace(partial, folder)
    except OSError:
        if not (folder / "about.json").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(partial, folder)


def cache_folder(table: datasets.Dataset, *facts: str) -> Path:
    """Return where what is computed of a prepared table is kept, below `SER_FT_CACHE` or the user's cache.

    Args:
        table: by whose fingerprint it is known. facts: all else that the result follows from.
    """
    state = " ".join((str(table._fingerprint), str(len(table)), *facts))
    return cache_home() / "features" / hashlib.sha256(state.encode()).hexdigest()[:20]


def update_hash(found: hashlib._Hash, weights: Mapping[str, torch.Tensor]) -> None:
    """Let a hash follow from weights and their names."""
    for name, weight in weights.items():
        found.update(name.encode())
        found.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)


def make_room(folder: Path, expected: float) -> None:
    """Refuse to fill a disk; caches that were not used for a week go before it comes to that, the oldest first.

    Raises:
        InputError: so many bytes would leave too little of it free.
    """
    here = nearest_existing(folder.absolute())
    outdated = sorted(folder.parent.glob("*/about.json"), key=lambda file: file.stat().st_mtime)
    while not _whole(folder) and expected > 0.9 * shutil.disk_usage(here).free:
        if outdated and time.time() - outdated[0].stat().st_mtime > _WEEK:
            shutil.rmtree(outdated.pop(0).parent, ignore_errors=True)
            continue
        free = shutil.disk_usage(here).free
        raise InputError(
            f"the frozen states need {expected / 1e9:.1f} GB below {here}, where {free / 1e9:.1f} GB are free: "
            "name a larger disk in SER_FT_CACHE, or give --tuning.cache false to compute them anew in each epoch"
        )


def _whole(folder: Path) -> bool:
    return (folder / "about.json").is_file()


def compute_frames(table: datasets.Dataset, extractor: SpectralFeatureExtractor, shown: bool = True) -> FlatCache:
    """Return the frames that an extractor makes of each clip of a prepared table, computed once and kept.

    They are kept under a hash of the table's fingerprint and of the extractor's settings and code. What is fitted on
    training speakers, or on a speaker's clips, is not applied to them.
    """
    home = inspect.getfile(type(extractor))
    code = "".join(Path(file).read_text(encoding="utf-8") for file in (home, *sorted(get_relative_import_files(home))))
    settings = {key: value for key, value in extractor.to_dict().items() if key not in ("mean", "scale")}

    def arrays(rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        batches = (rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH))
        for batch, clips in iter_waveforms(table, batches, len(rows), "features", shown):
            for row, frames in zip(batch, extract_frames(clips, extractor), strict=True):
                yield int(row), frames

    facts = json.dumps(settings, sort_keys=True, default=str)
    return FlatCache.make(cache_folder(table, facts, code), len(table), arrays)


def compute_statistics(table: datasets.Dataset, shown: bool = True) -> np.ndarray:
    """Return what baselines are given of each clip of a prepared table, computed once: shape (clips, numbers)."""
    frames = compute_frames(table, classical_feature_extractor(), shown)
    code = Path(inspect.getfile(frame_statistics)).read_text(encoding="utf-8")

    def arrays(rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        for start in range(0, len(rows), _BATCH):
            batch = rows[start : start + _BATCH].tolist()
            clips = [torch.from_numpy(np.array(frames[row])) for row in batch]
            mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(clip)) for clip in clips], batch_first=True)
            found = frame_statistics(
                torch.nn.utils.rnn.pad_sequence(clips, batch_first=True), mask, CLASSICAL_FUNCTIONALS
            )
            yield from zip(batch, found[:, None].numpy(), strict=True)

    home = cache_folder(table, frames.folder.name, code, repr(CLASSICAL_FUNCTIONALS))
    kept = FlatCache.make(home, len(table), arrays)
    return np.concatenate([kept[row] for row in range(len(kept))])


def extract_frames(clips: Sequence[np.ndarray], extractor: SpectralFeatureExtractor) -> list[np.ndarray]:
    """Return the frames of clips of samples, each of shape (frames, size), without what is fitted."""
    waves = [torch.from_numpy(clip) for clip in clips]
    lengths = torch.tensor([len(wave) for wave in waves])
    features, mask = extractor.extract(torch.nn.utils.rnn.pad_sequence(waves, batch_first=True), lengths)
    return [one[:length].numpy() for one, length in zip(features, mask.sum(dim=1).tolist(), strict=True)]


def iter_waveforms(
    table: datasets.Dataset, batches: Iterable[np.ndarray], total: int, what: str, shown: bool
) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """Yield the samples of clips, batch by batch, under a progress bar of so many clips: rows, and float32 arrays."""
    sounds = table.select_columns(["audio"])
    progress: Any
    with progress_bar(total=total, desc=what, unit=" clips", shown=shown) as progress:
        for batch in batches:
            yield batch, [audio.from_wav(sound["bytes"]) for sound in sounds[batch.tolist()]["audio"]]
            progress.update(len(batch))
