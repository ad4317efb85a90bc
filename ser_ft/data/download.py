"""Downloads a freely available corpus, verifies it, and keeps its published files."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from ..utils.errors import InputError
from ..utils.progress import progress_bar
from ..utils.text import print_text
from .corpora import CORPORA, Corpus, Download

if TYPE_CHECKING:
    import requests

MIRROR_VARIABLE = "SER_FT_DOWNLOAD_BASE"

_RETRY_SECONDS = (1.0, 4.0)  # before each retry of a broken transfer
_READ_TIMEOUT = 30.0  # seconds without data
_CONNECT_TIMEOUT = 5.0
_NUM_THREADS = 16

_Files = Mapping[Download, Path]


def download(corpus: str, folder: str | Path, mirror: str | None = None) -> Path:
    """Download a corpus into a subfolder with its name, after printing its terms, and return the subfolder.

    Files that are complete are not downloaded again. Archives are not unpacked: `ser-ft prepare` reads them. An
    interrupted download of single clips is continued, that of a single archive starts again; incomplete downloads are
    in `.downloads`. If files differ from the published ones, the corpus's folder is not changed.

    Args:
        corpus: a name in `ser_ft.data.corpora.CORPORA`.
        folder: the parent of the corpus's folder.
        mirror: `https://host/path` that replaces the scheme and host of each address; its path and query are kept.
            By default the environment variable SER_FT_DOWNLOAD_BASE.
    """
    known = _find_corpus(corpus)
    mirror = _check_mirror(mirror or os.environ.get(MIRROR_VARIABLE) or None)
    target = Path(folder) / known.name
    try:
        if not _is_complete(known, target):
            _download(known, target, mirror)
    except OSError as error:
        raise InputError(f"{known.name}: cannot be written to {folder} ({error.strerror or error})") from error
    return target


def _find_corpus(name: str) -> Corpus:
    if name not in CORPORA:
        raise InputError(f"{name}: no such corpus (there are {', '.join(CORPORA)})")
    corpus = CORPORA[name]
    if not corpus.downloads:
        raise InputError(f"{name}: not freely available ({corpus.terms}): {_manual_steps(corpus)}")
    return corpus


def _check_mirror(mirror: str | None) -> str | None:
    if mirror is None:
        return None
    try:
        parts = urlsplit(mirror)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return mirror
    except ValueError:  # invalid port
        pass
    raise InputError(f"{mirror}: not the address of a mirror (such as https://mirror.example.org/corpora)")


def _manual_steps(corpus: Corpus) -> str:
    return f"get it from {corpus.source}; then `ser-ft prepare FOLDER` reads it"


def _download(corpus: Corpus, target: Path, mirror: str | None) -> None:
    from filelock import FileLock

    cache = target.parent / ".downloads" / corpus.name
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache.with_name(f"{corpus.name}.lock")):
        if _is_complete(corpus, target):  # downloaded by another process meanwhile
            return
        size = sum(entry.megabytes for entry in corpus.downloads)
        host = urlsplit(_address(corpus.downloads[0].url, mirror)).netloc
        print_text(f"{corpus.name}: {corpus.title}, {size} MB from {host}")
        print_text(f"License: {corpus.license} ({corpus.terms})\nPlease cite: {corpus.citation}", flush=True)
        try:
            files = _fetch(corpus, corpus.downloads, cache, mirror)
            _verify(corpus, files)
            for entry in corpus.downloads:
                if entry.parse_list is not None:
                    parts = _fetch(corpus, _read_list(corpus, entry, files[entry]), cache, mirror)
                    _verify(corpus, parts, entry.sha256)
                    files |= parts
            _move_into_place(files, cache, target)
        finally:
            for file in cache.glob("tmp*"):  # left by a killed process
                file.unlink()
            if not any(cache.iterdir()):
                cache.rmdir()


def _read_list(corpus: Corpus, entry: Download, path: Path) -> tuple[Download, ...]:
    """Return the files in a list. If the file is not a list, it is removed."""
    assert entry.parse_list is not None
    try:
        return entry.parse_list(path.read_bytes())
    except InputError as error:
        path.unlink()
        raise InputError(f"{corpus.name}: {error}; removed. Try again, or {_manual_steps(corpus)}") from error


def _is_complete(corpus: Corpus, target: Path) -> bool:
    """Return whether all files of a corpus are in its folder and equal the published ones."""
    files = {entry: target / entry.file for entry in corpus.downloads}
    if not all(path.is_file() for path in files.values()) or any(_find_faults(files)):
        return False
    for entry, path in files.items():
        try:
            listed = entry.parse_list(path.read_bytes()) if entry.parse_list else ()
        except InputError:
            return False
        parts = {part: target / part.file for part in listed}
        if not all(part.is_file() for part in parts.values()) or any(_find_faults(parts, entry.sha256)):
            return False
    return True


def _verify(corpus: Corpus, files: _Files, sha256: str | None = None) -> None:
    """Compare files with the published checksums, and remove those that differ."""
    faults = list(_find_faults(files, sha256))
    if not faults:
        return
    for path in dict.fromkeys(path for path, _ in faults):
        path.unlink(missing_ok=True)
    more = f", and {len(faults) - 1} more" if len(faults) > 1 and sha256 is None else ""
    raise InputError(f"{corpus.name}: {faults[0][1]}{more}; removed. Try again, or {_manual_steps(corpus)}")


def _find_faults(files: _Files, sha256: str | None = None) -> Iterator[tuple[Path, str]]:
    """Yield the files that differ from the published ones, and how. If their common sha256 differs, yield all."""
    lines, complete = [], True
    for entry, path in progress_bar(files.items(), desc="verifying", unit="file", delay=2, leave=False):
        fault = _find_fault(entry, path)
        if fault:
            complete = False
            yield path, f"{entry.file} {fault}"
        elif sha256:
            lines.append(f"{_digest(path, 'sha256')}  {PurePosixPath(entry.file).name}\n")
    if sha256 and complete:
        digest = hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()
        if digest != sha256:
            fault = f"the {len(files)} files have the sha256 {digest}, published is {sha256}"
            yield from ((path, fault) for path in files.values())


def _find_fault(entry: Download, path: Path) -> str | None:
    if path.stat().st_size == 0:
        return "is empty"
    with path.open("rb") as file:
        if file.read(24).startswith(b"version https://git-lfs"):
            return "is a git-LFS pointer instead of the sound"
    if entry.md5 is not None and (digest := _digest(path, "md5")) != entry.md5:
        return f"has the md5 {digest}, published is {entry.md5}"
    return None


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _fetch(corpus: Corpus, entries: Sequence[Download], cache: Path, mirror: str | None) -> dict[Download, Path]:
    """Download files into the cache, except for those that are in it."""
    import pooch
    import requests
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise InputError(f"{corpus.name}: cannot be downloaded: HF_HUB_OFFLINE is set")
    pooch.get_logger().setLevel("WARNING")
    title = f"downloading {corpus.name}"

    def fetch(entry: Download) -> Path:
        url = _address(entry.url, mirror)
        for pause in (*_RETRY_SECONDS, None):
            # With a single file, the bar shows its bytes; otherwise the bar below shows the number of files.
            with progress_bar(total=1, desc=title, unit="B", unit_scale=True, show_progress=len(entries) == 1) as bar:
                downloader = pooch.HTTPDownloader(bar, 1 << 16, timeout=(_CONNECT_TIMEOUT, _READ_TIMEOUT))
                name = hashlib.sha256(url.encode()).hexdigest()
                try:
                    return Path(pooch.retrieve(url, None, name, cache, downloader=downloader))
                except requests.RequestException as error:
                    reason, temporary = _reason(error)
                    if pause is None or not temporary:
                        raise InputError(f"{corpus.name}: cannot download {url} ({reason}).") from error
            time.sleep(pause)
        raise AssertionError

    try:
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            futures = {pool.submit(fetch, entry): entry for entry in entries}
            many = len(entries) > 1
            bar = progress_bar(as_completed(futures), total=len(entries), desc=title, unit="file", show_progress=many)
            try:
                return {futures[future]: future.result() for future in bar}
            finally:
                bar.close()
                pool.shutdown(cancel_futures=True)
    except InputError as error:
        count = sum(not file.name.startswith("tmp") for file in cache.iterdir())
        again = f" {count} files are complete: run it again to continue." if count else ""
        raise InputError(f"{error}{again} Or {_manual_steps(corpus)}") from error


def _address(url: str, mirror: str | None) -> str:
    if mirror is None:
        return url
    parts = urlsplit(url)
    return mirror.rstrip("/") + urlunsplit(("", "", parts.path, parts.query, ""))


def _reason(error: requests.RequestException) -> tuple[str, bool]:
    """Return why a download failed, in a few words, and whether a retry may succeed."""
    import requests
    from urllib3.exceptions import ProtocolError, ReadTimeoutError

    cause = error.args[0] if error.args else None
    if isinstance(error, requests.HTTPError) and error.response is not None:
        status = error.response.status_code
        return f"the server answered {status}", status == 429 or status >= 500
    if isinstance(error, requests.ReadTimeout) or isinstance(cause, ReadTimeoutError):
        return "no answer in time", False
    if isinstance(error, requests.exceptions.ChunkedEncodingError) or isinstance(cause, ProtocolError):
        return "the connection broke off", True
    if isinstance(error, requests.ConnectionError):
        return "no connection", False
    return " ".join(str(error).split()), False


def _move_into_place(files: _Files, cache: Path, target: Path) -> None:
    """Move the verified files to the corpus's folder, as a whole if it does not exist yet."""
    complete = cache / "complete"
    shutil.rmtree(complete, ignore_errors=True)

    def move(path: Path, to: Path) -> None:
        to.parent.mkdir(parents=True, exist_ok=True)
        path.replace(to)

    for entry, path in files.items():
        move(path, complete / entry.file)
    if target.exists():
        for entry in files:
            move(complete / entry.file, target / entry.file)
        shutil.rmtree(complete)
    else:
        complete.replace(target)
