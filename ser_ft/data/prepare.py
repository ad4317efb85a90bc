"""Loading corpora: `load_corpora` for Python, `prepare` for a table on disk that stock `datasets` reads."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa

from ..labels import make_scheme
from ..utils.errors import InputError
from ..utils.files import check_output, nearest_existing
from .builder import RETRACTED_FILE, SKIPPED_FILE, SerCorpora, read_skipped, write_skipped
from .catalog import Catalog, CatalogOptions, Roots, Skipped, build_catalog, no_clips_message
from .corpora import REASONS
from .hub_import import catalog_from_table, open_dataset
from .scan import SYNTHETIC_NOTE

MINIATURE = "miniature"
CORPUS_INFO_FILE = "corpora.json"
_OWN_FILES = {CORPUS_INFO_FILE, SKIPPED_FILE, RETRACTED_FILE, "dataset_info.json", "state.json", "LICENSE", ".DS_Store"}


def load_corpora(
    roots: Roots,
    labels: str | Mapping[str, str] = "eight",
    calm: str = "keep",
    *,
    include_song: bool = False,
    cremad_labels: str = "intended",
    notes: Mapping[str, str] | None = None,
    cache_dir: str | Path | None = None,
    verbose: bool = True,
) -> datasets.Dataset:
    """Load emotional speech corpora as one table under one label scheme.

    The table is built once and cached; a file added, taken away or changed under the roots is seen.

    Args:
        roots: a mapping corpus -> folder, .zip archive or CSV manifest ("ravdess", "tess", "cremad" and "savee" are
            read by their own rules; any other name is data of your own); or one or several of these, in which the
            corpora are told by their file names; or "miniature", the synthetic voices that ser_ft makes itself.
            Data of your own is a folder per emotion (`EMOTION/SPEAKER/clip.wav`) or a manifest
            (columns path, emotion, speaker, ...).
        labels: "eight", "seven", "six", "four", or a mapping of your own, emotion -> class.
        calm: "keep" it as a class where the scheme has it, count it as "neutral", or "drop" it.
        include_song: take RAVDESS's song recordings in.
        cremad_labels: "intended" (what the actor was asked for), "voice" (what most listeners heard in the voice;
            ties are left out) or "voice-soft" (the same, and their shares as a column `votes`).
        notes: corpus -> what must be said wherever its results are shown ("rebuilt audio").
        cache_dir: where the built table is kept; by default the cache of `datasets`.
        verbose: show a progress bar, the summary and the terms of each corpus.

    Returns:
        A `datasets.Dataset` with the columns id, audio (`Audio(decode=False)`, 16-bit WAV bytes, 16 kHz, mono), emotion
        (ClassLabel), corpus, speaker, gender, age, intensity, statement, language, duration (s), sampling_rate (Hz,
        as found; None where it is not known) and path.

    Raises:
        InputError: a root is missing or holds nothing that can be used; an option is unknown.
    """
    book = _book(roots, labels, calm, include_song, cremad_labels, notes, verbose)
    table, skipped = _build(book, cache_dir, verbose)
    if verbose:
        print(summary(table, skipped))
    return table


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
    """Load any data set of the Hub or on disk by naming its columns; otherwise as `load_corpora`.

    Args:
        table: a `datasets.Dataset`, a Hub name, or a folder written by `save_to_disk`.
        columns: our name -> its column: audio, emotion, speaker, gender, age, intensity, statement, language.
        name: what to call it. split: which of its splits.

    Raises:
        InputError: it cannot be had, a column is missing, or nothing in it can be used.
    """
    book = _book_of_table(table, columns, name, split, labels, calm)
    built, skipped = _build(book, cache_dir, verbose)
    if verbose:
        print(summary(built, skipped))
    return built


def prepare(
    roots: Roots,
    out: str | Path,
    labels: str | Mapping[str, str] = "eight",
    calm: str = "keep",
    *,
    include_song: bool = False,
    cremad_labels: str = "intended",
    notes: Mapping[str, str] | None = None,
    verbose: bool = True,
) -> datasets.Dataset:
    """Write the table of `load_corpora` to a folder that stock `datasets.load_from_disk` reads.

    `skipped.csv` and `corpora.json` (terms, citation and notes of each corpus) are written beside it. Where the folder
    already holds just this table, nothing is done. It appears whole or not at all.

    Raises:
        InputError: as `load_corpora`, or the folder holds something else.
    """
    out = Path(out).expanduser()
    check_out(out)
    book = _book(roots, labels, calm, include_song, cremad_labels, notes, verbose)
    return _write(book, out, verbose)


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
    out = Path(out).expanduser()
    check_out(out)
    return _write(_book_of_table(table, columns, name, split, labels, calm), out, verbose)


def open_prepared(folder: str | Path) -> datasets.Dataset:
    """Open a table that `ser-ft prepare` wrote.

    Raises:
        InputError: there is no such table.
    """
    path = Path(folder).expanduser()
    if not (path / CORPUS_INFO_FILE).is_file():
        raise InputError(f"{folder}: no prepared table; make one: ser-ft prepare FOLDER... --out {folder}")
    try:
        return datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise InputError(f"{folder}: a prepared table that is damaged ({error}); delete it and make it anew") from error


def corpus_info(table: datasets.Dataset) -> dict[str, dict[str, Any]]:
    """Return, for each corpus in a table: title, license, terms, citation, note, and the classes it can hold."""
    known: dict[str, dict[str, Any]] = {}
    for line in (table.info.description or "").split("\n\n"):
        try:
            known |= json.loads(line)["corpora"]
        except (ValueError, KeyError, TypeError):
            continue
    names = table.features["emotion"].names
    pairs = table.select_columns(["corpus", "emotion"]).to_pandas().drop_duplicates()
    seen = set(pairs.itertuples(index=False, name=None))
    facts = {}
    for corpus in dict.fromkeys(pairs["corpus"]):
        blank = {"title": corpus, "license": "other", "terms": "unknown", "citation": "", "note": ""}
        can_hold = [name for place, name in enumerate(names) if (corpus, place) in seen]
        facts[corpus] = blank | {"classes": can_hold} | known.get(corpus, {})
    return facts


def is_synthetic(table: datasets.Dataset) -> bool:
    """Say whether a table holds the miniature's voices."""
    return any(SYNTHETIC_NOTE in fact["note"] for fact in corpus_info(table).values())


def summary(table: datasets.Dataset, skipped: list[Skipped]) -> str:
    """Return the tables a person reads after a build: clips, speakers and hours, what was dropped, and the terms."""
    names = table.features["emotion"].names
    facts = corpus_info(table)
    frame = table.select_columns(["corpus", "speaker", "emotion", "duration"]).to_pandas()
    head = ["corpus", "clips", "speakers", "hours", *names, "dropped"]
    rows = []
    for corpus in facts:
        part = frame[frame["corpus"] == corpus]
        counts = part["emotion"].value_counts()
        dropped = sum(skip.corpus == corpus for skip in skipped)
        rows.append(_cells(corpus, part, [int(counts.get(place, 0)) for place in range(len(names))], dropped))
    if len(rows) > 1:
        counts = frame["emotion"].value_counts()
        rows.append(_cells("all", frame, [int(counts.get(place, 0)) for place in range(len(names))], len(skipped)))
    lines = [_align([head, *rows])]
    reasons = Counter((skip.reason, skip.corpus) for skip in skipped)
    if reasons:
        lines.append("dropped:")
        lines += [
            f"  {count:5d}  {corpus or '-'}: {REASONS[reason]}" for (reason, corpus), count in reasons.most_common()
        ]
    for corpus, fact in facts.items():
        lines.append(f"{corpus}: {fact['title']}. License: {fact['license']} ({fact['terms']})")
        lines += [f"  cite: {fact['citation']}"] if fact["citation"] else []
        lines += [f"  note: {fact['note']}"] if fact["note"] else []
    return "\n".join(lines)


def _cells(name: str, frame: Any, counts: list[int], dropped: int) -> list[str]:
    hours = f"{frame['duration'].sum() / 3600:.2f}"
    return [name, str(len(frame)), str(frame["speaker"].nunique()), hours, *map(str, counts), str(dropped)]


def _align(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]))
    return "\n".join(lines)


def _book(
    roots: Roots,
    labels: str | Mapping[str, str],
    calm: str,
    include_song: bool,
    cremad_labels: str,
    notes: Mapping[str, str] | None,
    verbose: bool,
) -> Catalog:
    scheme = make_scheme(labels, calm)
    options = CatalogOptions(include_song, cremad_labels, dict(notes or {}))
    if roots == MINIATURE:
        from .synthetic.corpora import write_miniature

        roots = write_miniature(cache_home() / "miniature", progress=verbose)
    return build_catalog(roots, scheme, options)


def cache_home() -> Path:
    """Return the folder for what ser_ft keeps between runs: SER_FT_CACHE, or `ser_ft` in the user's cache."""
    own = os.environ.get("SER_FT_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ser_ft"


def _build(book: Catalog, cache_dir: str | Path | None, verbose: bool) -> tuple[datasets.Dataset, list[Skipped]]:
    with _own_progress():
        return _run(SerCorpora(book, cache_dir=cache_dir, progress=verbose))


def _run(builder: SerCorpora, **options: Any) -> tuple[datasets.Dataset, list[Skipped]]:
    builder.download_and_prepare(**options)
    skipped = read_skipped(builder.folder / SKIPPED_FILE)
    if len(builder.retracted) == builder.info.splits["train"].num_examples:
        shutil.rmtree(builder.folder)
        raise InputError(no_clips_message("the data", skipped))
    return builder.as_dataset(split="train"), skipped


def _as_saved(folder: Path, table: datasets.Dataset) -> None:
    """Make a built folder one that `datasets.load_from_disk` reads, without copying the table."""
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


def _write(book: Catalog, out: Path, verbose: bool) -> datasets.Dataset:
    if _key_of(out) == book.key:
        table = open_prepared(out)
        if verbose:
            print(summary(table, read_skipped(out / SKIPPED_FILE)))
            print(f"{out} is up to date: nothing changed under the roots")
        return table
    home = out.resolve()
    with tempfile.TemporaryDirectory(prefix=f".{home.name}.", dir=nearest_existing(home.parent)) as work:
        fresh = Path(work) / "table"
        builder = SerCorpora(book, cache_dir=work, progress=verbose)
        with _own_progress():
            table, skipped = _run(builder, output_dir=str(fresh))
            if builder.retracted:
                table.save_to_disk(str(Path(work) / "kept"))
                fresh = Path(work) / "kept"
            else:
                _as_saved(fresh, table)
        write_skipped(skipped, fresh / SKIPPED_FILE)
        content = {"key": book.key, "corpora": corpus_info(table), "clips": len(table), "skipped": len(skipped)}
        (fresh / CORPUS_INFO_FILE).write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
        del table
        home.parent.mkdir(parents=True, exist_ok=True)
        if home.exists():
            os.replace(home, Path(work) / "old")
        os.replace(fresh, home)
    table = open_prepared(out)
    if verbose:
        print(summary(table, skipped))
        print(f"written: {out} (every dropped file: {out / SKIPPED_FILE})")
    return table


def _key_of(out: Path) -> str | None:
    """Return the key of the table that a folder holds, if it holds one."""
    try:
        content = json.loads((out / CORPUS_INFO_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content.get("key") if isinstance(content, dict) else None


def check_out(out: Path) -> None:
    """Refuse to write a table over something else, or where nothing can be written.

    Raises:
        InputError: the folder is there and holds anything but a prepared table, or it cannot be made.
    """
    check_output(
        out,
        what="a prepared table",
        is_part=lambda entry: entry.name in _OWN_FILES or entry.suffix == ".arrow",
        is_ours=lambda folder: _key_of(folder) is not None,
    )


def _book_of_table(
    table: datasets.Dataset | str,
    columns: Mapping[str, str],
    name: str,
    split: str,
    labels: str | Mapping[str, str],
    calm: str,
) -> Catalog:
    scheme = make_scheme(labels, calm)
    source = open_dataset(table, split) if isinstance(table, str) else table
    return catalog_from_table(source, name, columns, scheme)


@contextmanager
def _own_progress() -> Iterator[None]:
    """Silence the bars of `datasets`: the builder shows its own, which knows the total."""
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
