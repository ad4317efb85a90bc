"""The kinds of input that a recognizer accepts: files, bytes, arrays, and lists of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ..audio import AudioError, MonoConverter, decode_blocks
from ..audio.discovery import find_sound_files
from ..utils.errors import InputError

AudioLike: TypeAlias = "str | os.PathLike[str] | bytes | Mapping[str, Any] | tuple[int, Any] | Iterable[Any]"
"""The path of a file or folder; the bytes of a file; {"array" or "raw": samples, "sampling_rate": Hz};
{"bytes", "path"} of `datasets`; (Hz, samples); or several of these."""

_ACCEPTED = 'a path, bytes, {"array": samples, "sampling_rate": Hz}, (Hz, samples), or a list of these'


@dataclass(frozen=True)
class AudioInput:
    """One clip or recording, with its path if it has one and its name in messages.

    `content` is the path, the bytes of a file, or the sampling rate (Hz) and the samples; `error` says why it cannot be
    read, if that is known already.
    """

    path: str | None
    name: str
    content: Path | bytes | tuple[int, np.ndarray]
    error: str | None = None

    def blocks(self, seconds: float = 10.0) -> Iterator[np.ndarray]:
        """Read the audio in blocks of about this length (an array is one block): float32 at 16 kHz, shape (samples,).

        Together, the blocks are what `audio.decode` returns for the whole. AudioError is raised if the input cannot be
        read or decoded, or is not audio.
        """
        if self.error is not None:
            raise AudioError("unreadable", f"{self.name}: {self.error}")
        if isinstance(self.content, tuple):
            yield _from_array(*self.content, self.name)
            return
        yield from decode_blocks(self.content, seconds, name=self.name)


def iter_inputs(sound: Any, name: str = "sound") -> Iterator[AudioInput]:
    """Split an argument of `EmotionRecognizer` (see `AudioLike`) into single inputs.

    `name` is the name, in messages, of an input without a path; in a list, its number is appended. InputError is raised
    if the argument is not of a supported kind, or is a folder without sound files.
    """
    if isinstance(sound, str | os.PathLike):
        yield from _from_path(os.fspath(sound))
    elif isinstance(sound, bytes | bytearray | memoryview):
        yield AudioInput(None, name, bytes(sound))
    elif isinstance(sound, Mapping):
        yield from _from_mapping(sound, name)
    elif isinstance(sound, tuple) and len(sound) == 2 and _is_number(sound[0]):
        yield AudioInput(None, name, (sound[0], sound[1]))
    elif hasattr(sound, "dtype") or not isinstance(sound, Iterable):
        kind = "samples without their rate" if hasattr(sound, "dtype") else type(sound).__name__
        raise InputError(f"{name}: {kind} cannot be recognized: give {_ACCEPTED}")
    else:
        for number, item in enumerate(sound, start=1):
            yield from iter_inputs(item, f"{name} {number}")


def _from_path(path: str) -> Iterator[AudioInput]:
    path = os.path.expanduser(path)
    empty = True
    for file in find_sound_files([path]):
        empty = False
        yield AudioInput(file.path, file.path, Path(file.path), file.error)
    if empty:
        raise InputError(f"{path}: no sound files in this folder")


def _from_mapping(sound: Mapping[str, Any], name: str) -> Iterator[AudioInput]:
    samples = next((sound[key] for key in ("array", "raw") if sound.get(key) is not None), None)
    path = None if sound.get("path") is None else os.fspath(sound["path"])
    if samples is not None and "sampling_rate" in sound:
        yield AudioInput(path, path or name, (sound["sampling_rate"], samples))
    elif sound.get("bytes") is not None:
        yield AudioInput(path, path or name, bytes(sound["bytes"]))
    elif path is not None:
        yield from _from_path(path)
    else:
        raise InputError(f"{name}: a mapping with {', '.join(map(str, sound)) or 'nothing'}: give {_ACCEPTED}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _from_array(rate: Any, array: Any, name: str) -> np.ndarray:
    """Convert numbers of shape (samples,), (samples, channels) or (channels, samples) to float32 at 16 kHz."""
    if not _is_number(rate) or not np.isfinite(rate) or rate != int(rate):
        raise AudioError("unreadable", f"{name}: a sampling rate is a whole number of Hz, not {rate!r}")
    try:
        samples = np.asarray(array)
    except ValueError as error:
        raise AudioError("unreadable", f"{name}: its samples cannot be converted to an array ({error})") from error
    if samples.ndim == 2 and samples.shape[0] < samples.shape[1]:
        samples = samples.T
    return MonoConverter(int(rate), name=name).feed(samples, last=True)
