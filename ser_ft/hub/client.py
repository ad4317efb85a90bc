"""Uploads to the Hub, and one-line messages for its errors."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..utils.errors import InputError
from .upload import Upload

TIMEOUT = 120.0
"""Seconds without a byte after which a connection is closed and tried again."""
_HUB_FILES = (".gitattributes",)
_INITIAL_FILES = frozenset({*_HUB_FILES, "README.md"})
"""Files that the Hub puts into a new repository; Spaces get a README.md."""
_NETWORK_PACKAGES = ("httpx", "httpx2", "httpcore", "hf_xet", "requests", "urllib3")
_PUSH_AGAIN = "files that arrived are not sent again, and the repository has received either all files or none"


class UploadError(RuntimeError):
    """The Hub could not be reached or failed. The upload itself is fine and may be tried again."""


class Client:
    """Sends uploads to the Hub at HF_ENDPOINT, with the token that huggingface_hub finds."""

    def __init__(self) -> None:
        from huggingface_hub import HfApi, constants, get_token

        if constants.HF_HUB_OFFLINE:
            raise InputError("the Hub is switched off (HF_HUB_OFFLINE): unset it to publish, or pass --dry-run")
        self.endpoint = str(constants.ENDPOINT)
        self._token_page = f"{self.endpoint}/settings/tokens"
        if get_token() is None:
            raise InputError(
                f"no token for {self.endpoint}: log in with `hf auth login`, or set HF_TOKEN to a token with write "
                f"access ({self._token_page})"
            )
        self.api = HfApi()

    def check_access(self, name: str) -> None:
        """Check that the token may write to a repository, USER/NAME."""
        with self._readable_errors(name):
            user = self.api.whoami()
        role = ((user.get("auth") or {}).get("accessToken") or {}).get("role")
        if role == "read":
            owner = user.get("name", "this user")
            raise InputError(f"the token of {owner} is read-only: make one with write access ({self._token_page})")
        owner = name.partition("/")[0]
        owners = [user.get("name"), *(organization.get("name") for organization in user.get("orgs") or ())]
        if owner not in owners:
            raise InputError(f"{name}: the token belongs to {owners[0]}, who is not {owner} or a member of it")

    def send(self, upload: Upload, private: bool = False, overwrite: bool = False) -> str:
        """Send files in one commit, after creating the repository if it does not exist. Equal files are not sent again.

        Returns:
            The address of the repository.

        Raises:
            InputError: the repository holds other files, is public although `private` is set, or cannot be written.
            UploadError: the connection failed.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, get_session

        address = f"{self.endpoint}/{'' if upload.kind == 'model' else upload.kind + 's/'}{upload.name}"
        with self._readable_errors(upload.name), _without_xet():
            get_session().timeout = TIMEOUT
            head, created = self._get_or_create(upload, private)
            remote = self._list_files(upload)
            stale = sorted(set(remote) - set(upload.files) - set(_HUB_FILES))
            changed = sorted(path for path in upload.files if path in remote and not _equal(upload, path, remote[path]))
            if (stale or changed) and not (overwrite or created or self._is_untouched(upload, remote)):
                others = changed + stale
                names = ", ".join([*others[:3], *(["..."] if len(others) > 3 else [])])
                raise InputError(
                    f"{address}: already holds other files ({names}): pass --overwrite to replace them (the "
                    "repository's history keeps them), or name another repository"
                )
            operations: list[Any] = [
                CommitOperationAdd(path, content if isinstance(content, bytes) else str(content))
                for path, content in upload.files.items()
                if path in changed or path not in remote
            ]
            operations += [CommitOperationDelete(path, is_folder=False) for path in stale]
            if operations:
                self.api.create_commit(
                    upload.name, operations, commit_message=upload.summary, repo_type=upload.kind, parent_commit=head
                )
        return address

    def _get_or_create(self, upload: Upload, private: bool) -> tuple[str | None, bool]:
        """Return the last commit of the repository, and whether it was created here."""
        from huggingface_hub.errors import RepositoryNotFoundError

        name, kind, created = upload.name, upload.kind, False
        try:
            info = self.api.repo_info(name, repo_type=kind)
        except RepositoryNotFoundError:
            created = True
            self.api.create_repo(name, repo_type=kind, private=private or None, space_sdk=upload.sdk, exist_ok=True)
            info = self.api.repo_info(name, repo_type=kind)
        if private and not info.private:
            raise InputError(f"{name}: already exists and is public: make it private in its settings, or name another")
        return info.sha, created

    def _is_untouched(self, upload: Upload, remote: Mapping[str, Any]) -> bool:
        """Return whether a repository is as the Hub created it, for example in an earlier push that failed."""
        initial = remote.keys() <= _INITIAL_FILES
        return initial and len(self.api.list_repo_commits(upload.name, repo_type=upload.kind)) == 1

    def _list_files(self, upload: Upload) -> dict[str, Any]:
        """Return the files of the repository: path -> the Hub's record of the file."""
        from huggingface_hub.hf_api import RepoFile

        tree = self.api.list_repo_tree(upload.name, recursive=True, repo_type=upload.kind)
        return {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}

    @contextmanager
    def _readable_errors(self, name: str) -> Iterator[None]:
        """Turn errors of the Hub's client into errors of one line."""
        try:
            yield
        except (InputError, UploadError):
            raise
        except Exception as error:
            causes = _causes(error)
            if response := next(filter(None, map(_response, causes)), None):
                raise self._response_error(name, *response) from error
            if network := next(filter(_is_network_error, causes), None):
                reason = (str(network).strip().splitlines() or ["no reason given"])[0][:200]
                raise UploadError(
                    f"the connection to {self.endpoint} failed ({type(network).__name__}: {reason}): push again; "
                    f"{_PUSH_AGAIN}"
                ) from error
            if isinstance(error, ValueError):
                raise InputError(f"{name}: {' '.join(str(error).split())}") from error
            raise

    def _response_error(self, name: str, status: int, message: str) -> Exception:
        details = f" ({message})" if message else ""
        if status == 401:
            return InputError(f"{self.endpoint} rejects the token{details}: log in again, or see {self._token_page}")
        if status in (402, 403):
            return InputError(
                f"{name}: this token has no write access{details}: see {self._token_page}, or name a repository of "
                "yours"
            )
        if status == 404:
            return InputError(f"{name}: no such user or repository, or the token may not see it{details}")
        if status in (409, 412):
            return InputError(f"{name}: was changed by someone else at the same time{details}: check it and push again")
        if status in (408, 429) or status >= 500:
            return UploadError(f"{self.endpoint} answered {status}{details}: push again later; {_PUSH_AGAIN}")
        return InputError(f"{name}: the Hub refuses the request with status {status}{details}")


@contextmanager
def _without_xet() -> Iterator[None]:
    """Send files over plain HTTP, not with hf_xet.

    hf_xet ignores `TIMEOUT` and reports every failure, whether of the network or of the token, as a RuntimeError.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_DISABLE_XET
    constants.HF_HUB_DISABLE_XET = True
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_XET = before


def _equal(upload: Upload, path: str, remote: Any) -> bool:
    from huggingface_hub.utils import sha

    content = upload.files[path]
    if upload.size(path) != (remote.lfs.size if remote.lfs else remote.size):
        return False
    if not remote.lfs:
        return bool(sha.git_hash(content if isinstance(content, bytes) else content.read_bytes()) == remote.blob_id)
    with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == str(remote.lfs.sha256)


def _causes(error: BaseException) -> list[BaseException]:
    causes: list[BaseException] = []
    while error not in causes:
        causes.append(error)
        error = error.__cause__ or error.__context__ or error
    return causes


def _response(error: BaseException) -> tuple[int, str] | None:
    """Return the status and the message of the HTTP response that caused an error, if one did."""
    from huggingface_hub.errors import HfHubHTTPError

    if not isinstance(error, HfHubHTTPError) or getattr(error, "response", None) is None:
        return None
    message = getattr(error, "server_message", None) or error.response.headers.get("X-Error-Message") or ""
    return int(error.response.status_code), " ".join(str(message).split())[:200]


def _is_network_error(error: BaseException) -> bool:
    package = type(error).__module__.partition(".")[0]
    return package in _NETWORK_PACKAGES or isinstance(error, ConnectionError | TimeoutError)
