"""Folders of tiny files under the names of the corpora, and the tables made from them."""

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

from ser_ft.audio import decode, to_wav
from ser_ft.data.builder import SKIPPED_FILE, read_skipped
from ser_ft.data.catalog import Catalog, CatalogOptions
from ser_ft.data.corpora import CORPORA
from ser_ft.data.prepare import load_corpora
from ser_ft.data.roots import Roots, build_catalog
from ser_ft.labels import make_scheme

RAVDESS = "03-01-{emotion}-01-01-01-{actor}.wav"


def distributed_names(manifests: Path) -> dict[str, list[str]]:
    """Return corpus -> paths of its distributed clips, from the manifests (sha256, bytes, path)."""
    lines = {corpus: (manifests / f"{corpus}.tsv").read_text(encoding="utf-8").splitlines() for corpus in CORPORA}
    return {corpus: [line.split("\t")[2] for line in names] for corpus, names in lines.items()}


def samples(name: str, seconds: float = 0.06, level: float = 2000) -> np.ndarray:
    """Return noise as int16 at 16 kHz; each name has its own."""
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    return generator.normal(0, level, round(seconds * 16_000)).astype("<i2")


def noise(name: str, seconds: float = 0.06) -> bytes:
    return to_wav(samples(name, seconds))


def write(root: Path, files: Iterable[str] | Mapping[str, bytes]) -> Path:
    """Write files below a root; names without content get noise."""
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[name] if isinstance(files, Mapping) else noise(name))
    return root


def write_zip(archive: Path, files: Iterable[str] | Mapping[str, bytes]) -> Path:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as file:
        for name in files:
            file.writestr(name, files[name] if isinstance(files, Mapping) else noise(name))
    return archive


def catalog_of(roots: Roots, labels: Any = "eight", calm: str = "keep", **options: Any) -> Catalog:
    """Return the catalog of some roots, without decoding."""
    return build_catalog(roots, make_scheme(labels, calm), CatalogOptions(**options))


def sounds_of(catalog: Catalog) -> list[bytes]:
    """Return the decoded samples of each clip of a catalog."""
    return [clip.decode(lambda: None)[0].tobytes() for clip in catalog.clips]


def decoded(name: str) -> bytes:
    """Return the decoded samples of `noise`."""
    return decode(noise(name)).tobytes()


def load(roots: Roots, cache: Path, **options: Any) -> datasets.Dataset:
    return load_corpora(roots, cache_dir=cache, verbose=False, **options)


def speakers_and_labels(catalog: Catalog) -> dict[str, tuple[str, str]]:
    """Return clip id -> speaker, class."""
    return {clip.utterance.id: (clip.utterance.speaker, clip.label) for clip in catalog.clips}


def reasons(catalog: Catalog) -> dict[str, str]:
    """Return name of the skipped file -> reason."""
    return {Path(skip.path.split("::")[0]).name: skip.reason for skip in catalog.skipped}


def skipped(table: datasets.Dataset) -> dict[str, str]:
    """Return name of the skipped file -> reason, from the skipped.csv of a built table."""
    file = Path(table.cache_files[0]["filename"]).parent / SKIPPED_FILE
    return {Path(skip.path.split("::")[0]).name: skip.reason for skip in read_skipped(file)}


def labels_of(table: datasets.Dataset) -> dict[str, str]:
    """Return clip id -> class."""
    return dict(zip(table["id"], table.features["emotion"].int2str(list(table["emotion"])), strict=True))


def actor_clips(number: int, emotions: range = range(1, 9)) -> list[str]:
    """Return the names of an actor's clips in RAVDESS, one per emotion."""
    return [RAVDESS.format(emotion=f"{emotion:02d}", actor=f"{number:02d}") for emotion in emotions]


def encode(sound: np.ndarray, rate: int = 16_000, kind: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, sound, rate, format=kind)
    return file.getvalue()
