"""Parameters of the transforms, sampled for each clip: a range, a choice, a folder of recordings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ... import audio
from ...utils.errors import InputError


@dataclass(frozen=True)
class Range:
    """A number, uniform in [low, high]; or always the same number."""

    default: tuple[float, float]  # low and high
    minimum: float
    maximum: float
    unit: str  # unit of all four, or ""

    def check(self, name: str, value: Any) -> tuple[float, float]:
        """Return low and high."""
        try:
            if isinstance(value, str | bytes | bool):
                raise TypeError
            low, high = (float(value),) * 2 if isinstance(value, int | float) else map(float, value)
            if not self.minimum <= low <= high <= self.maximum:
                raise ValueError
        except (TypeError, ValueError) as error:
            expected = f"a number or [low, high] from {self.minimum:g} to {self.maximum:g} {self.unit}".rstrip()
            raise InputError(f"augmentation {name} must be {expected}, not {value!r}") from error
        return low, high

    def sample(self, value: tuple[float, float], generator: np.random.Generator) -> float:
        """Sample a number."""
        return float(generator.uniform(*value))

    def usage(self) -> str:
        """Describe the default and the allowed values."""
        (low, high), unit = self.default, f" {self.unit}" if self.unit else ""
        return f"{low:g} to {high:g}{unit} (within {self.minimum:g} to {self.maximum:g})"

    def format(self, value: Any) -> str:
        """Format a sampled number with its unit."""
        return f"{value:.0f} {self.unit}".rstrip() if abs(value) >= 100 else f"{value:.3g} {self.unit}".rstrip()


@dataclass(frozen=True)
class Choice:
    """One of several names, with equal probabilities."""

    default: tuple[str, ...]
    options: tuple[str, ...]
    # Raises InputError for a name that this machine does not support.
    check_available: Callable[[str], object] | None = None

    def check(self, name: str, value: Any) -> tuple[str, ...]:
        """Return the names to sample from."""
        names = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple) else ()
        if not names or not all(isinstance(option, str) and option in self.options for option in names):
            options = ", ".join(self.options)
            raise InputError(f"augmentation {name} must be one or several of {options}, not {value!r}")
        if self.check_available is not None:
            for option in names:
                self.check_available(option)
        return names

    def sample(self, value: tuple[str, ...], generator: np.random.Generator) -> str:
        """Sample a name."""
        return value[int(generator.integers(len(value)))]

    def usage(self) -> str:
        """Describe the default and the options."""
        default, options = ", ".join(self.default), ", ".join(self.options)
        return default if default == options else f"{default} (of {options})"

    def format(self, value: Any) -> str:
        """Format a sampled name."""
        return str(value)


@dataclass(frozen=True)
class SoundFiles:
    """The recordings in a folder when it was listed."""

    folder: str
    # For each file, its path below the folder, its size in bytes, and its time of change in ns.
    files: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class SoundFolder:
    """A folder of recordings, one of which is sampled."""

    default: None = None

    def check(self, name: str, value: Any) -> SoundFiles:
        """List the folder."""
        if isinstance(value, SoundFiles):
            value = value.folder
        if not isinstance(value, str | Path):
            raise InputError(f"augmentation {name} must be a folder of recordings, not {value!r}")
        folder = Path(value).expanduser()
        if not folder.is_dir():
            raise InputError(f"augmentation {name}: {value}: no such folder")
        suffixes = audio.SUFFIXES | audio.FFMPEG_SUFFIXES
        files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in suffixes and file.is_file())
        if not files:
            raise InputError(f"augmentation {name}: {value}: no sound files found there")
        stats = ((file.relative_to(folder).as_posix(), file.stat()) for file in files)
        return SoundFiles(str(folder.resolve()), tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats))

    def sample(self, value: SoundFiles, generator: np.random.Generator) -> str:
        """Sample the path of a recording."""
        return str(Path(value.folder, value.files[int(generator.integers(len(value.files)))][0]))

    def usage(self) -> str:
        """Describe what is expected."""
        return "required"

    def format(self, value: Any) -> str:
        """Format a sampled path as the file's name."""
        return Path(value).name


Parameter: TypeAlias = Range | Choice | SoundFolder


def is_fraction(value: Any) -> bool:
    """Return whether a value is a number from 0 to 1."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def check_integer(value: Any, name: str, minimum: int, maximum: int) -> None:
    """Raise InputError unless a value is an integer from `minimum` to `maximum`."""
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
        raise InputError(f"augmentation: {name} must be a whole number from {minimum} to {maximum}, not {value!r}")
