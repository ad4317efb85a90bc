"""Fetch a corpus that may be fetched freely, check it, and leave it as it was published."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit, urlunsplit

from ..utils.errors import InputError
from ..utils.progress import progress_bar
from .corpora import CORPORA, Corpus, Download

MIRROR = "SER_FT_DOWNLOAD_BASE"

_PAUSES = (1.0, 4.0)  # seconds, before what broke off is asked for again
_ANSWER = 30.0  # seconds, the longest silence of a server
_CONNECT = 5.0

_Files = Mapping[Download, Path]


def download(corpus: str, folder: str | Path, base: str | None = None) -> Path:
    """Fetch a corpus into a folder, after printing its terms; what is there and right is not fetched again.

    Archives stay packed: `ser-ft prepare` reads them where they are. A corpus of single clips that was interrupted
    goes on where it stopped; a single archive starts anew.

    Args:
        corpus: a name of `ser_ft.data.corpora.CORPORA`.
        folder: the corpus comes to lie in a folder of its name below; `.downloads` beside it holds what is not
            complete yet.
        base: a mirror: `https://host/path` in place of the scheme and host of each address, whose path and query
            are kept. The environment variable SER_FT_DOWNLOAD_BASE does the same.

    Returns:
        The corpus's folder.

    Raises:
        InputError: there is no such corpus, it is not free to fetch, it cannot be reached, or what came is not what
            was published. Then nothing has changed in the corpus's folder.
    """
    known = _known(corpus)
    base = _mirror(base or os.environ.get(MIRROR) or None)
    place = Path(folder) / known.name
    try:
        if not _is_complete(known, place):
            _download(known, place, base)
    except OSError as error:
        raise InputError(f"{known.name}: cannot be kept in {folder} ({error.strerror or error})") from error
    return place


def _known(corpus: str) -> Corpus:
    if corpus not in CORPORA:
        raise InputError(f"{corpus}: no such corpus (there are {', '.join(CORPORA)})")
    known = CORPORA[corpus]
    if not known.downloads:
        raise InputError(f"{corpus}: cannot be fetched freely ({known.terms}): {_by_hand(known)}")
    return known


def _mirror(base: str | None) -> str | None:
    if base is None:
        return None
    try:
        parts = urlsplit(base)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return base
    except ValueError:  # a port that is none
        pass
    raise InputError(f"{base}: no address of a mirror (such as https://mirror.example.org/corpora)")


def _by_hand(known: Corpus) -> str:
    return f"get it from {known.source}; then `ser-ft prepare FOLDER` reads it"


def _download(known: Corpus, place: Path, base: str | None) -> None:
    from filelock import FileLock

    cache = place.parent / ".downloads" / known.name
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache.with_name(f"{known.name}.lock")):
        if _is_complete(known, place):  # by another process, meanwhile
            return
        _print_terms(known, base)
        try:
            _put(_collect(known, cache, base), cache, place)
        finally:
            _tidy(cache)


def _collect(known: Corpus, cache: Path, base: str | None) -> _Files:
    """Fetch and verify all of a corpus: first what is listed in advance, then what its lists name."""
    files = _fetch(known, known.downloads, cache, base)
    _verify(known, files)
    for entry in known.downloads:
        if entry.parse_list is not None:
            parts = _fetch(known, _read(known, entry.parse_list, files[entry]), cache, base)
            _verify(known, parts, entry.sha256)
            files |= parts
    return files


def _print_terms(known: Corpus, base: str | None) -> None:
    size = sum(entry.megabytes for entry in known.downloads)
    host = urlsplit(_address(known.downloads[0].url, base)).netloc
    print(f"{known.name}: {known.title}, {size} MB from {host}")
    print(f"License: {known.license} ({known.terms})")
    print(f"Please cite: {known.citation}", flush=True)


def _read(known: Corpus, read: Callable[[bytes], tuple[Download, ...]], path: Path) -> tuple[Download, ...]:
    """Return what a list names; what should be a list and is not, is removed."""
    try:
        return read(path.read_bytes())
    except InputError as error:
        path.unlink()
        raise InputError(f"{known.name}: {error}; removed. Try again, or {_by_hand(known)}") from error


def _is_complete(known: Corpus, place: Path) -> bool:
    """Say whether all of a corpus lies in its folder, and is what was published."""
    wanted = {entry: place / entry.file for entry in known.downloads}
    if not all(path.is_file() for path in wanted.values()) or any(_faults(wanted)):
        return False
    for entry, path in wanted.items():
        try:
            parts = (
                {part: place / part.file for part in entry.parse_list(path.read_bytes())} if entry.parse_list else {}
            )
        except InputError:
            return False
        if not all(part.is_file() for part in parts.values()) or any(_faults(parts, entry.sha256)):
            return False
    return True


def _verify(known: Corpus, files: _Files, sha256: str | None = None) -> None:
    """Compare files with what was published; on a difference remove those that differ."""
    faults = list(_faults(files, sha256))
    if not faults:
        return
    for path in dict.fromkeys(path for path, _ in faults):
        path.unlink(missing_ok=True)
    more = f", and {len(faults) - 1} more" if len(faults) > 1 and sha256 is None else ""
    raise InputError(f"{known.name}: {faults[0][1]}{more}; removed. Try again, or {_by_hand(known)}")


def _faults(files: _Files, sha256: str | None = None) -> Iterator[tuple[Path, str]]:
    """Yield each file that differs from what was published, and how; all of them where their common sha256 differs."""
    lines, whole = [], True
    for entry, path in progress_bar(files.items(), desc="Checking", unit="file", delay=2, leave=False):
        fault = _fault(entry, path)
        if fault:
            whole = False
            yield path, f"{entry.file} {fault}"
        elif sha256:
            lines.append(f"{_digest(path, 'sha256')}  {PurePosixPath(entry.file).name}\n")
    if sha256 and whole:
        found = hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()
        if found != sha256:
            fault = f"the {len(files)} files have the sha256 {found}, published is {sha256}"
            yield from ((path, fault) for path in files.values())


def _fault(entry: Download, path: Path) -> str | None:
    if path.stat().st_size == 0:
        return "is empty"
    with path.open("rb") as file:
        if file.read(24).startswith(b"version https://git-lfs"):
            return "is a git-LFS pointer instead of the sound"
    if entry.md5 is not None and (found := _digest(path, "md5")) != entry.md5:
        return f"has the md5 {found}, published is {entry.md5}"
    return None


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _fetch(known: Corpus, entries: Sequence[Download], cache: Path, base: str | None) -> dict[Download, Path]:
    """Fetch files into the cache; those that it has are not asked for again."""
    import aiohttp
    from datasets.download import DownloadConfig, DownloadManager

    # datasets' own limit is 5 minutes for a whole file, and none for a server that does not answer.
    limits = aiohttp.ClientTimeout(total=None, connect=2 * _CONNECT, sock_connect=_CONNECT, sock_read=_ANSWER)
    manager = DownloadManager(
        download_config=DownloadConfig(
            cache_dir=cache,
            use_etag=False,
            download_desc=f"Fetching {known.name}",
            storage_options={"client_kwargs": {"timeout": limits}},
        )
    )
    urls = [_address(entry.url, base) for entry in entries]
    for pause in (*_PAUSES, None):
        try:
            return dict(zip(entries, map(Path, manager.download(urls)), strict=True))
        except (OSError, aiohttp.ClientError) as error:
            why, passing = _reason(error)
            if pause is None or not passing:
                kept = sum(path.is_file() and not path.suffix for path in cache.iterdir())
                again = f" {kept} files have come: run it again to go on." if kept else ""
                where = _where(error, urls)
                raise InputError(f"{known.name}: cannot fetch {where} ({why}).{again} Or {_by_hand(known)}") from error
            time.sleep(pause)
    raise AssertionError


def _address(url: str, base: str | None) -> str:
    if base is None:
        return url
    parts = urlsplit(url)
    return base.rstrip("/") + urlunsplit(("", "", parts.path, parts.query, ""))


def _where(error: BaseException, urls: Sequence[str]) -> str:
    """Return the address that failed; the server's name where the error does not say which one of many."""
    named = [str(link) for link in _chain(error) if isinstance(link, FileNotFoundError)]
    return next((name for name in named if name in urls), urls[0] if len(urls) == 1 else urlsplit(urls[0]).netloc)


def _reason(error: BaseException) -> tuple[str, bool]:
    """Say in a few words why a file did not come, and whether it may come if it is asked for again."""
    import aiohttp
    from huggingface_hub.errors import OfflineModeIsEnabled

    chain = _chain(error)
    status = next((link.status for link in chain if isinstance(link, aiohttp.ClientResponseError)), None)
    if status is not None:
        return f"the server answered {status}", status == 429 or status >= 500

    def has(*kinds: type[BaseException]) -> bool:
        return any(isinstance(link, kinds) for link in chain)

    if has(OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set", False
    if has(aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
        return "no connection", False
    if has(TimeoutError):
        return "no answer in time", False
    if has(aiohttp.ClientError, ConnectionError):
        return "the connection broke off", True
    if isinstance(chain[-1], FileNotFoundError) and chain[-1].errno is None:
        return "the server answered 404", False
    return " ".join(str(getattr(chain[-1], "strerror", None) or chain[-1]).split()), False


def _chain(error: BaseException) -> list[BaseException]:
    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    return chain


def _put(files: _Files, cache: Path, place: Path) -> None:
    """Move what is complete and verified to its final place: as one folder, where there is none yet."""
    whole = cache / "complete"
    shutil.rmtree(whole, ignore_errors=True)
    for entry, path in files.items():
        _move(path, whole / entry.file)
    if place.exists():
        for entry in files:
            _move(whole / entry.file, place / entry.file)
        shutil.rmtree(whole)
    else:
        whole.replace(place)


def _move(path: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    path.replace(to)


def _tidy(cache: Path) -> None:
    """Leave only whole files in the cache (their names have no suffix), and no empty cache."""
    for path in cache.glob("*.*"):
        path.unlink()
    if not any(cache.iterdir()):
        cache.rmdir()
