"""The Hub's client, and what goes wrong with it in one line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..utils.errors import InputError
from .upload import Content, Upload

SILENCE = 120.0
"""Seconds without a byte after which a connection is given up, and tried again."""
_KEPT = (".gitattributes",)  # made by the Hub itself
_BEGUN = frozenset({*_KEPT, "README.md"})
"""What the Hub puts into a repository that it makes: a Space gets a card, which is nobody's."""
_NETWORK = ("httpx", "httpx2", "httpcore", "hf_xet", "requests", "urllib3")


class UploadError(RuntimeError):
    """The Hub could not be reached, or broke off: nothing is wrong with what was to be sent. Trying again helps."""


class Client:
    """Sends uploads to the Hub that HF_ENDPOINT names, as the user whose token huggingface_hub finds.

    Raises:
        InputError: the network is switched off, or there is no token.
    """

    def __init__(self) -> None:
        from huggingface_hub import HfApi, constants, get_token

        if constants.HF_HUB_OFFLINE:
            raise InputError("the Hub is switched off (HF_HUB_OFFLINE): unset it to publish, or give --dry-run")
        self.endpoint = str(constants.ENDPOINT)
        if get_token() is None:
            raise InputError(
                f"no token for {self.endpoint}: log in with `hf auth login`, or set HF_TOKEN to a token that may write "
                f"({self.endpoint}/settings/tokens)"
            )
        self.api = HfApi()

    def check(self, name: str) -> None:
        """Ask whose the token is, and whether it may write there.

        Args:
            name: of the repository that is to be written, "user/name".

        Raises:
            InputError: the Hub does not take the token, or it may only read. UploadError: the Hub cannot be reached.
        """
        with self._explained(name):
            said = self.api.whoami()
        role = ((said.get("auth") or {}).get("accessToken") or {}).get("role")
        if role == "read":
            raise InputError(
                f"the token of {said.get('name', 'this user')} may only read: make one that may write "
                f"({self.endpoint}/settings/tokens)"
            )
        owner = name.partition("/")[0]
        owners = [said.get("name"), *(group.get("name") for group in said.get("orgs") or ())]
        if owner not in owners:
            raise InputError(
                f"{name}: the token is of {owners[0]}, who is neither {owner} nor in an organisation of it"
            )

    def send(self, upload: Upload, private: bool = False, overwrite: bool = False) -> str:
        """Send files in one commit; a repository is made where there is none. What is there already is not sent again.

        Args:
            upload: what. private: make the repository private. overwrite: replace what the repository holds.

        Returns:
            The address of the repository.

        Raises:
            InputError: the repository holds something else, or is public where it is to be private, or may not be
                written. UploadError: the connection broke.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, get_session

        where = f"{self.endpoint}/{'' if upload.kind == 'model' else upload.kind + 's/'}{upload.name}"
        with self._explained(upload.name), _plain_uploads():
            get_session().timeout = SILENCE
            head, new = self._ready(upload, private)
            held = self._held(upload)
            stale = sorted(set(held) - set(upload.files) - set(_KEPT))
            changed = sorted(
                path for path in upload.files if path in held and not _same(upload.files[path], held[path])
            )
            if (stale or changed) and not (overwrite or new or self._untouched(upload, held)):
                raise InputError(
                    f"{where}: holds something else already ({', '.join((changed + stale)[:3])}"
                    f"{', ...' if len(changed + stale) > 3 else ''}): give --overwrite to replace it (its history keeps "
                    "it), or name another repository"
                )
            operations: list[Any] = [
                CommitOperationAdd(path, content if isinstance(content, bytes) else str(content))
                for path, content in upload.files.items()
                if path in changed or path not in held
            ]
            operations += [CommitOperationDelete(path, is_folder=False) for path in stale]
            if operations:
                self.api.create_commit(
                    upload.name,
                    operations,
                    commit_message=upload.summary,
                    repo_type=upload.kind,
                    parent_commit=head,
                )
        return where

    def _ready(self, upload: Upload, private: bool) -> tuple[str | None, bool]:
        """Make the repository where there is none; return its last commit, and whether it was made here."""
        from huggingface_hub.errors import RepositoryNotFoundError

        new = False
        try:
            found = self.api.repo_info(upload.name, repo_type=upload.kind)
        except RepositoryNotFoundError:
            self.api.create_repo(
                upload.name, repo_type=upload.kind, private=private or None, space_sdk=upload.sdk, exist_ok=True
            )
            new = True
            found = self.api.repo_info(upload.name, repo_type=upload.kind)
        if private and not found.private:
            raise InputError(
                f"{upload.name}: is there already, and public: make it private in its settings, or name another"
            )
        return found.sha, new

    def _untouched(self, upload: Upload, held: Mapping[str, Any]) -> bool:
        """Say whether a repository is as the Hub made it, such as one that an earlier push broke off at."""
        if not held.keys() <= _BEGUN:
            return False
        return len(self.api.list_repo_commits(upload.name, repo_type=upload.kind)) == 1

    def _held(self, upload: Upload) -> dict[str, Any]:
        """Return what the repository holds: path -> the Hub's record of the file."""
        from huggingface_hub.hf_api import RepoFile

        tree = self.api.list_repo_tree(upload.name, recursive=True, repo_type=upload.kind)
        return {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        """Say in one line what the Hub's client says in many."""
        try:
            yield
        except (InputError, UploadError):
            raise
        except Exception as error:
            causes = _causes(error)
            if found := next(filter(None, (_status(cause) for cause in causes)), None):
                raise self._refused(name, *found) from error
            network = next((cause for cause in causes if _of_network(cause)), None)
            if network is not None:
                raise UploadError(
                    f"the connection to {self.endpoint} broke ({type(network).__name__}: {_first_line(network)}): push "
                    "again; what arrived is not sent twice, and the repository has all of it or none"
                ) from error
            if isinstance(error, ValueError):
                raise InputError(f"{name}: {' '.join(str(error).split())}") from error
            raise

    def _refused(self, name: str, status: int, said: str) -> Exception:
        """Return the error for an answer of the Hub."""
        told = f" ({said})" if said else ""
        tokens = f"{self.endpoint}/settings/tokens"
        if status == 401:
            return InputError(f"{self.endpoint} does not take the token{told}: log in anew, or see {tokens}")
        if status in (402, 403):
            return InputError(f"{name}: this token may not write there{told}: see {tokens}, or name your own")
        if status == 404:
            return InputError(f"{name}: there is no such user or repository, or the token may not see it{told}")
        if status in (409, 412):
            return InputError(f"{name}: was changed by someone else at the same time{told}: look at it, and push again")
        if status in (408, 429) or status >= 500:
            return UploadError(
                f"{self.endpoint} answered {status}{told}: push again later; what arrived is not sent twice, and "
                "the repository has all of it or none"
            )
        return InputError(f"{name}: the Hub refuses it, with {status}{told}")


@contextmanager
def _plain_uploads() -> Iterator[None]:
    """Send files over HTTP for a time, not by hf_xet, where that is installed.

    hf_xet knows nothing of `SILENCE`, and tells every failure, be it of the network or of the token, as a RuntimeError.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_DISABLE_XET
    constants.HF_HUB_DISABLE_XET = True
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_XET = before


def _same(content: Content, held: Any) -> bool:
    """Say whether a file is what the Hub holds under its name."""
    from huggingface_hub.utils import sha

    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    if size != (held.lfs.size if held.lfs else held.size):
        return False
    if held.lfs:
        return _sha256(content) == str(held.lfs.sha256)
    return bool(sha.git_hash(content if isinstance(content, bytes) else content.read_bytes()) == held.blob_id)


def _sha256(content: Content) -> str:
    import hashlib

    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _causes(error: BaseException) -> list[BaseException]:
    """Return an error and those that it was raised for, the last one first."""
    found: list[BaseException] = []
    while error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__ or error
    return found


def _status(error: BaseException) -> tuple[int, str] | None:
    """Return the status of an HTTP answer, and what the server said, where an error is one."""
    from huggingface_hub.errors import HfHubHTTPError

    if not isinstance(error, HfHubHTTPError) or getattr(error, "response", None) is None:
        return None
    said = getattr(error, "server_message", None) or error.response.headers.get("X-Error-Message") or ""
    return int(error.response.status_code), " ".join(str(said).split())[:200]


def _of_network(error: BaseException) -> bool:
    home = type(error).__module__.partition(".")[0]
    return home in _NETWORK or isinstance(error, ConnectionError | TimeoutError)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0][:200]
