"""Loads corpora: `load_corpora` returns a table, `prepare` writes one that `datasets.load_from_disk` reads."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets.exceptions import DatasetGenerationError

from ..labels import make_scheme
from ..utils.atomic import recover, write_atomically
from ..utils.caches import cache_home, check_cache
from ..utils.errors import InputError, raise_machine_failure
from ..utils.files import check_output, output_lock
from ..utils.progress import dataset_progress_bars
from ..utils.readers import parse_json, read_json
from ..utils.text import print_text, text_table
from .builder import RETRACTED_FILE, SKIPPED_FILE, SerCorpora, read_skipped, write_skipped
from .catalog import Catalog, CatalogOptions, CremadLabels
from .corpora.folder import UNKNOWN_SPEAKER
from .hub_import import catalog_from_table, homes_of, open_dataset
from .roots import Roots, build_catalog
from .scan import SYNTHETIC_NOTE
from .skipped import NoClipsError, Skipped, describe_reasons, loss_warning

MINIATURE = "miniature"
CORPUS_INFO_FILE = "corpora.json"
FAILED_FILE = "skipped_in_failed_run.csv"
"""The list of skipped files of a run that left no clip, next to the table of an earlier run."""
_TABLE_FILES = {
    CORPUS_INFO_FILE,
    SKIPPED_FILE,
    FAILED_FILE,
    RETRACTED_FILE,
    "dataset_info.json",
    "state.json",
    "LICENSE",
}


def load_corpora(
    roots: Roots,
    labels: str | Mapping[str, str] = "eight",
    calm: str = "keep",
    *,
    include_song: bool = False,
    cremad_labels: CremadLabels = "intended",
    notes: Mapping[str, str] | None = None,
    cache_dir: str | Path | None = None,
    verbose: bool = True,
) -> datasets.Dataset:
    """Load emotional speech corpora as one table under one label scheme.

    The table is built once and cached. It is rebuilt when files below the roots are added, removed or changed.

    Args:
        roots: a mapping corpus -> folder, .zip archive or CSV manifest. The file names of "ravdess", "tess", "cremad"
            and "savee" are parsed; any other name is your own data: a folder per emotion
            (`EMOTION/SPEAKER/clip.wav`) or a manifest (columns path, emotion, speaker, ...). Or one or several
            folders, archives or manifests, whose corpora are recognized by the file names. Or "miniature", synthetic
            voices made by ser_ft.
        labels: "eight", "seven", "six", "four", or your own mapping emotion -> class.
        calm: "keep" it as a class if the scheme has it, merge it into "neutral", or "drop" it.
        include_song: include RAVDESS's song recordings.
        cremad_labels: "intended" (the emotion that the actor was asked for), "voice" (the listeners' majority label for
            the voice; ties are skipped) or "voice-soft" (the same, with the fractions of votes in a column `votes`).
        notes: corpus -> a note that must be shown with its results, for example "rebuilt audio".
        cache_dir: folder of the built table; by default the cache of `datasets`.
        verbose: show a progress bar, the summary and the terms of each corpus.

    Returns:
        A `datasets.Dataset` with the columns id, audio (`Audio(decode=False)`, 16-bit WAV bytes, 16 kHz, mono), emotion
        (ClassLabel), corpus, speaker, gender, age, intensity, statement, language, duration (s), sampling_rate (Hz, of
        the original file; None if unknown) and path.

    Raises:
        InputError: a root is missing or has no usable clip, or an option is unknown.
    """
    options = CatalogOptions(include_song, cremad_labels, notes or {})
    _check_table_cache(cache_dir)
    return _load(_catalog_of_roots(roots, labels, calm, options, verbose), cache_dir, verbose)


def load_table(
    table: datasets.Dataset | str,
    columns: Mapping[str, str],
    name: str = "own",
    *,
    split: str = "train",
    labels: str | Mapping[str, str] = "eight",
    calm: str = "keep",
    cache_dir: str | Path | None = None,
    verbose: bool = True,
) -> datasets.Dataset:
    """Load any data set on the Hub or on disk, given the names of its columns; other arguments as in `load_corpora`.

    Args:
        table: a `datasets.Dataset`, a name on the Hub, or a folder written by `save_to_disk`.
        columns: our name -> its column: audio, emotion, speaker, gender, age, intensity, statement, language.
        name: name of the corpus.
        split: which of its splits to load.

    Raises:
        InputError: the data set cannot be loaded, a column is missing, or it has no usable clip.
    """
    _check_table_cache(cache_dir)
    return _load(_catalog_of_table(table, columns, name, split, labels, calm), cache_dir, verbose)


def prepare(
    roots: Roots,
    out: str | Path,
    labels: str | Mapping[str, str] = "eight",
    calm: str = "keep",
    *,
    include_song: bool = False,
    cremad_labels: CremadLabels = "intended",
    notes: Mapping[str, str] | None = None,
    verbose: bool = True,
) -> datasets.Dataset:
    """Write the table of `load_corpora` to a folder that `datasets.load_from_disk` reads.

    `skipped.csv` and `corpora.json` (terms, citation and notes of each corpus) are written next to it. If the folder
    already holds the same table, nothing is done. The folder is replaced in one step. If no clip can be used, only the
    list of skipped files is written, and a table that the folder holds is kept.

    Raises:
        InputError: as `load_corpora`, or the folder contains something else.
    """
    options = CatalogOptions(include_song, cremad_labels, notes or {})
    with output_lock(out):
        out = check_prepare_output(out)
        with _skipped_files_listed(out):
            return _write(_catalog_of_roots(roots, labels, calm, options, verbose), out, verbose)


def prepare_table(
    table: datasets.Dataset | str,
    columns: Mapping[str, str],
    out: str | Path,
    name: str = "own",
    *,
    split: str = "train",
    labels: str | Mapping[str, str] = "eight",
    calm: str = "keep",
    verbose: bool = True,
) -> datasets.Dataset:
    """Write the table of `load_table` to a folder; see `prepare`."""
    with output_lock(out):
        out = check_prepare_output(out)
        with _skipped_files_listed(out):
            return _write(_catalog_of_table(table, columns, name, split, labels, calm), out, verbose)


def check_prepare_output(out: str | Path) -> Path:
    """Check that a prepared table may be written to a folder, and return its path."""
    return check_output(
        out,
        what="a prepared table",
        is_part=lambda entry: entry.name in _TABLE_FILES or entry.suffix == ".arrow",
        is_ours=lambda folder: _key_of_table(folder) is not None or _holds_only_a_list(folder),
    )


def find_prepared(folder: str | Path) -> Path:
    """Return the path of a table written by `ser-ft prepare`; raise InputError if there is none."""
    path = Path(folder).expanduser()
    if not (path / CORPUS_INFO_FILE).is_file():
        raise InputError(f"{folder}: no prepared table; make one: ser-ft prepare FOLDER... --out {folder}")
    return path


def open_prepared(folder: str | Path) -> datasets.Dataset:
    """Open a table written by `ser-ft prepare`.

    Raises:
        InputError: there is no such table, or it is damaged.
    """
    path = find_prepared(folder)
    try:
        for name in (CORPUS_INFO_FILE, "state.json", "dataset_info.json"):
            read_json(path / name)
        return datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise InputError(f"{folder}: damaged prepared table ({error}); delete it and prepare it again") from error


def corpus_info(table: datasets.Dataset) -> dict[str, dict[str, Any]]:
    """Return title, license, terms, citation, note and possible classes of each corpus in a table."""
    described: dict[str, dict[str, Any]] = {}
    for line in (table.info.description or "").split("\n\n"):
        try:
            described |= parse_json(line, "the table's description")["corpora"]
        except (ValueError, KeyError, TypeError):
            continue
    names = table.features["emotion"].names
    pairs = table.select_columns(["corpus", "emotion"]).to_pandas().drop_duplicates()
    corpus_labels = set(pairs.itertuples(index=False, name=None))
    unknown = {"license": "other", "terms": "unknown", "citation": "", "note": ""}
    info = {}
    for corpus in dict.fromkeys(pairs["corpus"]):
        classes = [name for label, name in enumerate(names) if (corpus, label) in corpus_labels]
        info[corpus] = {"title": corpus, **unknown, "classes": classes} | described.get(corpus, {})
    return info


def is_synthetic(table: datasets.Dataset) -> bool:
    """Return whether a table holds the miniature's synthetic voices."""
    return any(SYNTHETIC_NOTE in corpus["note"] for corpus in corpus_info(table).values())


def summary(table: datasets.Dataset, skipped: list[Skipped]) -> str:
    """Return tables of clips, speakers, hours and skipped files, and the terms of each corpus."""
    names = table.features["emotion"].names
    info = corpus_info(table)
    frame = table.select_columns(["corpus", "speaker", "emotion", "duration"]).to_pandas()

    def row(name: str, clips: Any, num_skipped: int) -> dict[str, Any]:
        counts = clips["emotion"].value_counts()
        speakers = sum(not speaker.endswith(f"-{UNKNOWN_SPEAKER}") for speaker in clips["speaker"].unique())
        hours = f"{clips['duration'].sum() / 3600:.2f}"
        counted = {"corpus": name, "clips": len(clips), "speakers": speakers, "hours": hours}
        return counted | {n: int(counts.get(label, 0)) for label, n in enumerate(names)} | {"skipped": num_skipped}

    rows = [row(name, frame[frame["corpus"] == name], sum(skip.corpus == name for skip in skipped)) for name in info]
    if len(info) > 1:
        rows.append(row("all", frame, len(skipped)))
    lines = [text_table(rows, ["corpus", "clips", "speakers", "hours", *names, "skipped"], right=("hours",))]
    if skipped:
        lines += ["skipped:", *(f"  {line}" for line in describe_reasons(skipped))]
    for name, facts in info.items():
        lines.append(f"{name}: {facts['title']}. License: {facts['license']} ({facts['terms']})")
        lines += [f"  cite: {facts['citation']}"] if facts["citation"] else []
        lines += [f"  note: {facts['note']}"] if facts["note"] else []
    return "\n".join(lines)


def _catalog_of_roots(
    roots: Roots, labels: str | Mapping[str, str], calm: str, options: CatalogOptions, verbose: bool
) -> Catalog:
    scheme = make_scheme(labels, calm)
    if roots == MINIATURE:
        from .synthetic.corpora import write_miniature

        roots = write_miniature(cache_home() / "miniature", progress=verbose)
    return build_catalog(roots, scheme, options)


def _catalog_of_table(
    table: datasets.Dataset | str,
    columns: Mapping[str, str],
    name: str,
    split: str,
    labels: str | Mapping[str, str],
    calm: str,
) -> Catalog:
    scheme = make_scheme(labels, calm)
    if isinstance(table, str):
        return catalog_from_table(open_dataset(table, split), name, columns, scheme, homes_of(table))
    return catalog_from_table(table, name, columns, scheme)


def _check_table_cache(cache_dir: str | Path | None) -> None:
    if cache_dir is None:
        check_cache(datasets.config.HF_DATASETS_CACHE, "HF_DATASETS_CACHE or HF_HOME")
    else:
        check_cache(cache_dir, "cache_dir")


def _load(catalog: Catalog, cache_dir: str | Path | None, verbose: bool) -> datasets.Dataset:
    builder = SerCorpora(catalog, cache_dir=cache_dir, progress=verbose)
    table, skipped = _build(builder)
    if verbose:
        print_text(summary(table, skipped))
    _warn(table, skipped, builder.folder / SKIPPED_FILE)
    return table


def _warn(table: datasets.Dataset, skipped: list[Skipped], file: Path) -> None:
    if warning := loss_warning(len(table), skipped, file):
        print_text(f"ser-ft: {warning}", sys.stderr)


@contextmanager
def _skipped_files_listed(out: Path) -> Iterator[None]:
    """Write the list of skipped files even if no clip is left. A table that the folder holds is kept."""
    try:
        yield
    except NoClipsError as error:
        if not error.skipped:
            raise
        file = out / (SKIPPED_FILE if _key_of_table(out) is None else FAILED_FILE)
        out.mkdir(parents=True, exist_ok=True)
        write_skipped(error.skipped, file)
        raise InputError(f"{error}; all are listed in {file}") from None


def _build(builder: SerCorpora, **options: Any) -> tuple[datasets.Dataset, list[Skipped]]:
    with dataset_progress_bars(False):  # the builder's own bar knows the total
        try:
            builder.download_and_prepare(**options)
        except DatasetGenerationError as error:
            raise error.__cause__ or error from None
        skipped = read_skipped(builder.folder / SKIPPED_FILE)
        if len(builder.retracted) == builder.info.splits["train"].num_examples:
            shutil.rmtree(builder.folder)
            raise NoClipsError(builder.catalog.location, skipped)
        return builder.as_dataset(split="train"), skipped


def _write(catalog: Catalog, out: Path, verbose: bool) -> datasets.Dataset:
    recover(out)
    if _key_of_table(out) == catalog.key:
        table = open_prepared(out)
        skipped = read_skipped(out / SKIPPED_FILE)
        if verbose:
            print_text(summary(table, skipped))
            print_text(f"{out} is up to date: nothing changed under the roots")
        _warn(table, skipped, out / SKIPPED_FILE)
        return table
    with write_atomically(out) as new:
        build = new / "build"
        builder = SerCorpora(catalog, cache_dir=build, progress=verbose)
        table, skipped = _build(builder, output_dir=str(build / "table"))
        if builder.retracted:
            with dataset_progress_bars(False):
                table.save_to_disk(str(new))
        else:
            for file in (build / "table").iterdir():
                os.replace(file, new / file.name)
            _write_state(new, table)
        write_skipped(skipped, new / SKIPPED_FILE)
        content = {"key": catalog.key, "corpora": corpus_info(table), "clips": len(table), "skipped": len(skipped)}
        (new / CORPUS_INFO_FILE).write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
        del table
        shutil.rmtree(build)
    table = open_prepared(out)
    if verbose:
        print_text(summary(table, skipped))
        print_text(f"written: {out} (every skipped file: {out / SKIPPED_FILE})")
    _warn(table, skipped, out / SKIPPED_FILE)
    return table


def _write_state(folder: Path, table: datasets.Dataset) -> None:
    """Write the file that makes a built folder readable for `datasets.load_from_disk` without copying the table."""
    state = {
        "_data_files": [{"filename": Path(file["filename"]).name} for file in table.cache_files],
        "_fingerprint": table._fingerprint,
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": "train",
    }
    (folder / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")


def _holds_only_a_list(folder: Path) -> bool:
    return {entry.name for entry in folder.iterdir()} <= {SKIPPED_FILE, ".DS_Store"}


def _key_of_table(folder: Path) -> str | None:
    """Return the key of the prepared table in a folder, or None."""
    try:
        content = read_json(folder / CORPUS_INFO_FILE)
    except (OSError, ValueError) as error:
        raise_machine_failure(error)
        return None
    return content.get("key") if isinstance(content, dict) else None
