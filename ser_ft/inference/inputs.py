"""What can be handed to a recogniser: files, bytes, arrays, and lists of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from .. import audio
from ..audio import AudioError
from ..audio.discovery import find_sound_files
from ..audio.streaming import MonoResampler, check_samples, open_audio
from ..utils.errors import InputError

AudioLike: TypeAlias = "str | os.PathLike[str] | bytes | Mapping[str, Any] | tuple[int, Any] | Iterable[Any]"
"""A file's path, or a folder's; a file's bytes; {"array" or "raw": samples, "sampling_rate": Hz}, {"bytes", "path"} as
`datasets` has it, or (Hz, samples); or several of these."""

_ACCEPTED = 'a path, bytes, {"array": samples, "sampling_rate": Hz}, (Hz, samples), or a list of these'


@dataclass(frozen=True)
class AudioInput:
    """One sound.

    Attributes:
        path: of the file, None where there is none. name: for messages.
        content: where it lies, its bytes, or its sampling rate (Hz) and samples.
        error: why it cannot be had.
    """

    path: str | None
    name: str
    content: Path | bytes | tuple[int, np.ndarray]
    error: str | None = None

    def blocks(self, seconds: float = 10.0) -> Iterator[np.ndarray]:
        """Read it piece by piece; what comes out is what `audio.decode` makes of the whole.

        Args:
            seconds: length of a block, about; an array comes in one.

        Yields:
            float32 samples at 16 kHz, shape (samples,).

        Raises:
            AudioError: it cannot be had or decoded, or is not made as sound is.
        """
        if self.error is not None:
            raise AudioError("unreadable", f"{self.name}: {self.error}")
        if isinstance(self.content, tuple):
            yield _from_array(*self.content, self.name)
            return
        with open_audio(self.content, self.name) as sound:
            mixer = MonoResampler(sound.rate)
            for block in sound.blocks(seconds):
                yield mixer.feed(block)
            yield mixer.finish()


def iter_inputs(sound: Any, name: str = "sound") -> Iterator[AudioInput]:
    """Take apart what was handed in.

    Args:
        sound: see `AudioLike`. name: of what has no path, for messages; in a list, its number is put behind.

    Raises:
        InputError: it is nothing that can be recognised, or a folder without sound files.
    """
    if isinstance(sound, str | os.PathLike):
        yield from _files(os.fspath(sound))
    elif isinstance(sound, bytes | bytearray | memoryview):
        yield AudioInput(None, name, bytes(sound))
    elif isinstance(sound, Mapping):
        yield from _of_mapping(sound, name)
    elif isinstance(sound, tuple) and len(sound) == 2 and _is_number(sound[0]):
        yield AudioInput(None, name, (sound[0], sound[1]))
    elif hasattr(sound, "dtype") or not isinstance(sound, Iterable):
        what = "samples without their rate" if hasattr(sound, "dtype") else type(sound).__name__
        raise InputError(f"{name}: {what} cannot be recognised: give {_ACCEPTED}")
    else:
        for number, one in enumerate(sound, start=1):
            yield from iter_inputs(one, f"{name} {number}")


def _files(path: str) -> Iterator[AudioInput]:
    path = os.path.expanduser(path)
    is_folder, none = os.path.isdir(path), True
    for found in find_sound_files([path]):
        none = False
        yield AudioInput(found.path, found.path, Path(found.path), found.error)
    if none and is_folder:
        raise InputError(f"{path}: no sound files in this folder")


def _of_mapping(sound: Mapping[str, Any], name: str) -> Iterator[AudioInput]:
    samples = next((sound[key] for key in ("array", "raw") if sound.get(key) is not None), None)
    path = None if sound.get("path") is None else os.fspath(sound["path"])
    if samples is not None and "sampling_rate" in sound:
        yield AudioInput(path, path or name, (sound["sampling_rate"], samples))
    elif sound.get("bytes") is not None:
        yield AudioInput(path, path or name, bytes(sound["bytes"]))
    elif path is not None:
        yield from _files(path)
    else:
        raise InputError(f"{name}: a mapping with {', '.join(map(str, sound)) or 'nothing'}: give {_ACCEPTED}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _from_array(rate: Any, given: Any, name: str) -> np.ndarray:
    """Return float32 samples at 16 kHz, shape (samples,), of samples of any kind.

    Args:
        rate: in Hz. given: integers or floats, shape (samples,), (samples, channels) or (channels, samples); there are
            taken to be more samples than channels. name: for messages.
    """
    try:
        samples = np.asarray(given)
    except ValueError as error:
        raise AudioError("unreadable", f"{name}: its samples make no array ({error})") from error
    if not _is_number(rate) or rate != int(rate):
        raise AudioError("unreadable", f"{name}: a sampling rate is a whole number of Hz, not {rate!r}")
    audio.check_sampling_rate(int(rate), name)
    if samples.ndim not in (1, 2):
        raise AudioError(
            "unreadable", f"{name}: samples come as (samples,) or (samples, channels), not {samples.shape}"
        )
    scaled = _scaled(samples, name)
    if scaled.ndim == 2:
        scaled = audio.mix_down(scaled if scaled.shape[0] >= scaled.shape[1] else scaled.T)
    return audio.resample(scaled, int(rate))


def _scaled(samples: np.ndarray, name: str) -> np.ndarray:
    """Return samples as float32 with full scale at 1.0."""
    if samples.dtype.kind == "f":
        check_samples(samples, name)
        return samples.astype(np.float32, copy=False)
    if samples.dtype == np.uint8:  # as 8-bit WAV has them
        return (samples.astype(np.float32) - 128) / np.float32(128)
    if samples.dtype in (np.int8, np.int16, np.int32):
        return samples.astype(np.float32) / np.float32(-float(np.iinfo(samples.dtype).min))
    raise AudioError("unreadable", f"{name}: samples are floats, int16, int32, int8 or uint8, not {samples.dtype}")
