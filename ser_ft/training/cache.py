"""What no gradient reaches is computed once per clip, and kept in a flat memory map with offsets."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import audio
from ..data.prepare import cache_home
from ..progress import bar

if TYPE_CHECKING:
    import datasets
    from transformers import SequenceFeatureExtractor

_BATCH = 32


class FlatCache:
    """Arrays of one width and of any length, one per clip, in one file: `cache[row]` has shape (frames, size).

    Attributes:
        lengths: frames of each clip, shape (clips,).
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = folder = Path(folder)
        self.size = int(json.loads((folder / "about.json").read_text(encoding="utf-8"))["size"])
        self.lengths: np.ndarray = np.load(folder / "lengths.npy")
        self._ends = np.cumsum(self.lengths)
        self._frames = np.memmap(folder / "frames.bin", dtype=np.float32, mode="r").reshape(-1, self.size)

    def __reduce__(self) -> tuple[type[FlatCache], tuple[Path]]:
        """Travel to a loader's process as a path: the frames stay where they are."""
        return FlatCache, (self.folder,)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> np.ndarray:
        return self._frames[self._ends[row] - self.lengths[row] : self._ends[row]]

    @classmethod
    def make(cls, folder: Path, arrays: Callable[[], Iterable[np.ndarray]]) -> FlatCache:
        """Open the cache in a folder; where there is none, fill it: it appears whole or not at all."""
        if not (folder / "about.json").is_file():
            folder.parent.mkdir(parents=True, exist_ok=True)
            partial = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
            partial.mkdir()
            try:
                lengths, size = [], 0
                with (partial / "frames.bin").open("wb") as out:
                    for array in arrays():
                        out.write(np.ascontiguousarray(array, dtype=np.float32).tobytes())
                        lengths.append(len(array))
                        size = array.shape[1]
                np.save(partial / "lengths.npy", np.array(lengths, dtype=np.int64))
                (partial / "about.json").write_text(json.dumps({"size": size}), encoding="utf-8")
                _put(partial, folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        return cls(folder)


def _put(partial: Path, folder: Path) -> None:
    """Move a whole cache to its place, unless another process has put one there meanwhile."""
    try:
        os.replace(partial, folder)
    except OSError:
        if not (folder / "about.json").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(partial, folder)


def frames_of(table: datasets.Dataset, extractor: SequenceFeatureExtractor, shown: bool = True) -> FlatCache:
    """Return the frames that an extractor makes of each clip of a prepared table, computed once and kept.

    They are kept below `SER_FT_CACHE` (or the user's cache), under a hash of the table's fingerprint and of the
    extractor's settings and code.
    """
    code = Path(inspect.getfile(type(extractor))).read_text(encoding="utf-8")
    state = f"{table._fingerprint} {len(table)} {extractor.to_json_string()} {code}"
    folder = cache_home() / "features" / hashlib.sha256(state.encode()).hexdigest()[:20]

    framed: Any = extractor  # which transformers does not declare callable

    def arrays() -> Iterable[np.ndarray]:
        sounds = table.select_columns(["audio"])
        progress: Any
        with bar(total=len(table), desc="features", unit=" clips", shown=shown) as progress:
            for start in range(0, len(table), _BATCH):
                clips = [audio.from_wav(sound["bytes"]) for sound in sounds[start : start + _BATCH]["audio"]]
                batch = framed(clips, sampling_rate=audio.SAMPLE_RATE, return_tensors="np")
                for frames, mask in zip(batch["input_features"], batch["attention_mask"], strict=True):
                    yield frames[: int(mask.sum())]
                progress.update(len(clips))

    return FlatCache.make(folder, arrays)
