"""Helpers of the data tests: trees of tiny files under true names, and what became of them."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import soundfile

from ser_ft.audio import to_wav
from ser_ft.data.builder import SKIPPED_FILE, read_skipped
from ser_ft.data.catalog import Catalog, CatalogOptions, Roots, build_catalog
from ser_ft.data.prepare import load_corpora
from ser_ft.labels import make_scheme

RAVDESS = "03-01-{emotion}-01-01-01-{actor}.wav"


def true_names(manifests: Path) -> dict[str, list[str]]:
    """Corpus -> the paths of its clips as distributed, from the manifests (sha256, bytes, path)."""
    return {
        corpus: [line.split("\t")[2] for line in (manifests / f"{corpus}.tsv").read_text(encoding="utf-8").splitlines()]
        for corpus in ("ravdess", "tess", "cremad", "savee")
    }


def samples(name: str, seconds: float = 0.06, level: float = 2000) -> np.ndarray:
    """Noise as int16 at 16 kHz, another one for each name."""
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    return generator.normal(0, level, round(seconds * 16_000)).astype("<i2")


def noise(name: str, seconds: float = 0.06) -> bytes:
    return to_wav(samples(name, seconds))


def write(root: Path, files: Iterable[str] | Mapping[str, bytes]) -> Path:
    """Write files below a root: noise for names alone."""
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[name] if isinstance(files, Mapping) else noise(name))
    return root


def write_zip(archive: Path, files: Iterable[str] | Mapping[str, bytes]) -> Path:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as made:
        for name in files:
            made.writestr(name, files[name] if isinstance(files, Mapping) else noise(name))
    return archive


def find(roots: Roots, labels: Any = "eight", calm: str = "keep", **options: Any) -> Catalog:
    """The catalogue of some roots: what the names say, without decoding."""
    return build_catalog(roots, make_scheme(labels, calm), CatalogOptions(**options))


def load(roots: Roots, cache: Path, **options: Any) -> datasets.Dataset:
    return load_corpora(roots, cache_dir=cache, verbose=False, **options)


def told(book: Catalog) -> dict[str, tuple[str, str]]:
    """Clip id -> speaker, class."""
    return {clip.utterance.id: (clip.utterance.speaker, clip.label) for clip in book.clips}


def reasons(book: Catalog) -> dict[str, str]:
    """Name of the skipped file -> reason."""
    return {Path(skip.path.split("::")[0]).name: skip.reason for skip in book.skipped}


def skipped(table: datasets.Dataset) -> dict[str, str]:
    """The same of a built table, from the skipped.csv beside it."""
    file = Path(table.cache_files[0]["filename"]).parent / SKIPPED_FILE
    return {Path(skip.path.split("::")[0]).name: skip.reason for skip in read_skipped(file)}


def labels_of(table: datasets.Dataset) -> dict[str, str]:
    """Clip id -> class."""
    return dict(zip(table["id"], table.features["emotion"].int2str(list(table["emotion"])), strict=True))


def actor(number: int, emotions: range = range(1, 9)) -> list[str]:
    """The names of an actor's clips in RAVDESS, one per emotion."""
    return [RAVDESS.format(emotion=f"{emotion:02d}", actor=f"{number:02d}") for emotion in emotions]


def encode(sound: np.ndarray, rate: int = 16_000, kind: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, sound, rate, format=kind)
    return file.getvalue()
