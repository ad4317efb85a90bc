"""Settings of which each clip draws its own value: a range, a choice, a folder of recordings."""

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
    """A number, drawn evenly from [low, high]; a single number is always taken.

    Attributes:
        default: low and high. least, most: what they may be. unit: of all four.
    """

    default: tuple[float, float]
    least: float
    most: float
    unit: str

    def check(self, name: str, given: Any) -> tuple[float, float]:
        """Return low and high."""
        try:
            if isinstance(given, str | bytes | bool):
                raise TypeError
            low, high = (float(given),) * 2 if isinstance(given, int | float) else map(float, given)
            if not self.least <= low <= high <= self.most:
                raise ValueError
        except (TypeError, ValueError) as error:
            wanted = f"a number or [low, high] from {self.least:g} to {self.most:g} {self.unit}".rstrip()
            raise InputError(f"augmentation {name}: give {wanted}, not {given!r}") from error
        return low, high

    def draw(self, given: tuple[float, float], generator: np.random.Generator) -> float:
        """Draw evenly."""
        return float(generator.uniform(*given))

    def usage(self) -> str:
        """Say what is drawn by default, and what may be given."""
        (low, high), unit = self.default, f" {self.unit}" if self.unit else ""
        return f"{low:g} to {high:g}{unit} (within {self.least:g} to {self.most:g})"

    def text(self, value: Any) -> str:
        """Write the number with its unit."""
        shown = f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
        return f"{shown} {self.unit}".rstrip()


@dataclass(frozen=True)
class Choice:
    """One of several names, each as likely as the others.

    Attributes:
        default: those that are drawn from. options: all there are. usable: raises InputError for one that is not
            to be had on this machine.
    """

    default: tuple[str, ...]
    options: tuple[str, ...]
    usable: Callable[[str], object] | None = None

    def check(self, name: str, given: Any) -> tuple[str, ...]:
        """Return the names to draw from."""
        names = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, list | tuple) else ()
        if not names or not all(isinstance(word, str) and word in self.options for word in names):
            options = ", ".join(self.options)
            raise InputError(f"augmentation {name}: give one or several of {options}, not {given!r}")
        if self.usable is not None:
            for word in names:
                self.usable(word)
        return names

    def draw(self, given: tuple[str, ...], generator: np.random.Generator) -> str:
        """Draw a name."""
        return given[int(generator.integers(len(given)))]

    def usage(self) -> str:
        """Say what is drawn from by default, and what there is."""
        default, options = ", ".join(self.default), ", ".join(self.options)
        return default if default == options else f"{default} (of {options})"

    def text(self, value: Any) -> str:
        """Write the name."""
        return str(value)


@dataclass(frozen=True)
class Sounds:
    """A folder's recordings as they were when it was listed: path below the folder, bytes, time of change (ns)."""

    folder: str
    files: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Folder:
    """A folder of recordings, one of which is drawn."""

    default: None = None

    def check(self, name: str, given: Any) -> Sounds:
        """List the folder."""
        if isinstance(given, Sounds):
            given = given.folder
        if not isinstance(given, str | Path):
            raise InputError(f"augmentation {name}: name a folder of recordings, not {given!r}")
        home = Path(given).expanduser()
        known = audio.SUFFIXES | audio.FFMPEG_SUFFIXES
        found = sorted(file for file in home.rglob("*") if file.suffix.lower() in known and file.is_file())
        if not found:
            raise InputError(f"augmentation {name}: {given}: no sound files found there")
        listed = ((file.relative_to(home).as_posix(), file.stat()) for file in found)
        return Sounds(str(home.resolve()), tuple((path, facts.st_size, facts.st_mtime_ns) for path, facts in listed))

    def draw(self, given: Sounds, generator: np.random.Generator) -> str:
        """Draw a recording's path."""
        return str(Path(given.folder, given.files[int(generator.integers(len(given.files)))][0]))

    def usage(self) -> str:
        """Say what may be given."""
        return "to be named"

    def text(self, value: Any) -> str:
        """Write the recording's name."""
        return Path(value).name


Setting: TypeAlias = Range | Choice | Folder
