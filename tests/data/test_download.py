"""Downloads of corpora, from a server on this machine."""

from __future__ import annotations

import hashlib
import io
import json
import socket
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from ser_ft.data import download as module
from ser_ft.data.corpora import CORPORA, cremad, tess
from ser_ft.data.download import download
from ser_ft.utils.errors import InputError

ZIP = "/records/1188976/files/Audio_Speech_Actors_01-24.zip?download=1"
TABLES = "/CheyneyComputerScience/CREMA-D/master"
SOUND = "/media/CheyneyComputerScience/CREMA-D/master"
TESS_LIST = "/api/datasets/:persistentId/versions/:latest/files?persistentId=doi:10.5683/SP2/E8H2MF"
CLIPS = ("1001_DFA_ANG_XX", "1001_DFA_DIS_XX", "1040_ITH_SAD_XX")


@dataclass
class Server:
    """A server's files by path and query, the requests it received, and how often each transfer is cut."""

    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    cuts: dict[str, int] = field(default_factory=dict)
    status: int = 404
    base: str = ""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests.append(self.path)
            body = state.files.get(self.path)
            if body is None:
                return self.send_error(state.status)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            state.cuts[self.path] = state.cuts.get(self.path, 0) - 1
            self.wfile.write(body[: len(body) // 2] if state.cuts[self.path] >= 0 else body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    state.base = f"http://127.0.0.1:{listener.server_port}"
    yield state
    listener.shutdown()
    listener.server_close()


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv(module.MIRROR_VARIABLE, raising=False)
    monkeypatch.setattr(module, "_RETRY_SECONDS", (0.0,))


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A tiny zip archive with the name of RAVDESS, and its checksum."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("Actor_01/03-01-01-01-01-01-01.wav", b"RIFF" + bytes(5000))
    body = file.getvalue()
    entry = replace(CORPORA["ravdess"].downloads[0], md5=hashlib.md5(body).hexdigest())
    monkeypatch.setitem(CORPORA, "ravdess", replace(CORPORA["ravdess"], downloads=(entry,)))
    return body


@pytest.fixture
def clips(server: Server, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Three clips and the tables of CREMA-D on the server, and their checksum."""
    sounds = {name: b"RIFF" + name.encode() * 20 for name in CLIPS}
    rows = "".join(f'{place},"{name}"\n' for place, name in enumerate(CLIPS, 1))
    server.files = {f"{SOUND}/AudioWAV/{name}.wav": sound for name, sound in sounds.items()}
    server.files[f"{TABLES}/SentenceFilenames.csv"] = f'"Stimulus_Number","Filename"\n{rows}'.encode()
    for table in ("VideoDemographics.csv", "processedResults/summaryTable.csv", "processedResults/tabulatedVotes.csv"):
        server.files[f"{TABLES}/{table}"] = table.encode()
    lines = sorted(f"{hashlib.sha256(sound).hexdigest()}  {name}.wav\n" for name, sound in sounds.items())
    listed, *tables = cremad.CORPUS.downloads
    listed = replace(listed, sha256=hashlib.sha256("".join(lines).encode()).hexdigest())
    monkeypatch.setitem(CORPORA, "cremad", replace(cremad.CORPUS, downloads=(listed, *tables)))
    return sounds


def files_in(folder: Path) -> set[str]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {path.relative_to(folder).as_posix() for path in files}


def failure(corpus: str, folder: Path, mirror: str | None = None) -> str:
    with pytest.raises(InputError) as caught:
        download(corpus, folder, mirror)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_an_archive_is_downloaded_once(
    server: Server, archive: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files[ZIP] = archive
    monkeypatch.setenv(module.MIRROR_VARIABLE, server.base)
    folder = download("ravdess", tmp_path)
    assert folder == tmp_path / "ravdess"
    assert files_in(tmp_path) == {"ravdess/Audio_Speech_Actors_01-24.zip"}
    assert (folder / "Audio_Speech_Actors_01-24.zip").read_bytes() == archive
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("CC-BY-NC-SA-4.0", "Livingstone"))
    server.requests.clear()
    assert download("ravdess", tmp_path) == folder
    assert server.requests == []
    assert capsys.readouterr().out == ""


def test_a_damaged_archive_is_replaced_and_other_files_stay(server: Server, archive: bytes, tmp_path: Path) -> None:
    server.files[ZIP] = archive
    (tmp_path / "ravdess").mkdir()
    (tmp_path / "ravdess/Audio_Speech_Actors_01-24.zip").write_bytes(archive[:100])
    (tmp_path / "ravdess/mine.txt").write_text("stays")
    download("ravdess", tmp_path, server.base)
    assert (tmp_path / "ravdess/Audio_Speech_Actors_01-24.zip").read_bytes() == archive
    assert (tmp_path / "ravdess/mine.txt").read_text() == "stays"


def test_a_file_with_a_wrong_checksum_is_removed(server: Server, archive: bytes, tmp_path: Path) -> None:
    server.files[ZIP] = archive + b"more"
    text = failure("ravdess", tmp_path, server.base)
    assert "Audio_Speech_Actors_01-24.zip has the md5 " in text
    assert "https://zenodo.org/records/1188976" in text
    assert files_in(tmp_path) == set()
    server.files[ZIP] = archive
    assert download("ravdess", tmp_path, server.base).is_dir()


@pytest.mark.parametrize(("status", "num_requests"), [(404, 1), (503, 2)])
def test_a_missing_file_is_named_with_other_sources_and_a_server_error_is_retried(
    server: Server, archive: bytes, tmp_path: Path, status: int, num_requests: int
) -> None:
    server.status = status
    text = failure("ravdess", tmp_path, server.base)
    assert f"{server.base}{ZIP} (the server answered {status})" in text
    assert "ser-ft prepare" in text
    assert len(server.requests) == num_requests
    assert files_in(tmp_path) == set()


def test_a_broken_transfer_is_retried_once_and_leaves_nothing(server: Server, archive: bytes, tmp_path: Path) -> None:
    server.files[ZIP] = archive
    server.cuts[ZIP] = 100
    assert "the connection broke off" in failure("ravdess", tmp_path, server.base)
    assert files_in(tmp_path) == set()
    server.cuts[ZIP] = 1
    folder = download("ravdess", tmp_path, server.base)
    assert (folder / "Audio_Speech_Actors_01-24.zip").read_bytes() == archive


def test_no_connection_fails_at_once(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = time.monotonic()
    assert "no connection" in failure("ravdess", tmp_path, f"http://127.0.0.1:{port}")
    assert time.monotonic() - start < 5


def test_no_answer_and_offline_mode_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_READ_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert "no answer in time" in failure("ravdess", tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in failure("ravdess", tmp_path, "http://127.0.0.1:9")


def test_cremad_is_downloaded_by_its_list_of_clips(server: Server, clips: dict[str, bytes], tmp_path: Path) -> None:
    folder = download("cremad", tmp_path, server.base)
    assert files_in(folder) == {
        *(f"AudioWAV/{name}.wav" for name in CLIPS),
        "SentenceFilenames.csv",
        "VideoDemographics.csv",
        "processedResults/summaryTable.csv",
        "processedResults/tabulatedVotes.csv",
    }
    assert all((folder / f"AudioWAV/{name}.wav").read_bytes() == sound for name, sound in clips.items())
    assert files_in(tmp_path / ".downloads") == set()
    server.requests.clear()
    download("cremad", tmp_path, server.base)
    assert server.requests == []
    (folder / "AudioWAV/1001_DFA_DIS_XX.wav").unlink()
    download("cremad", tmp_path, server.base)
    assert (folder / "AudioWAV/1001_DFA_DIS_XX.wav").is_file()


def test_an_interrupted_download_is_continued(server: Server, clips: dict[str, bytes], tmp_path: Path) -> None:
    last = f"{SOUND}/AudioWAV/1040_ITH_SAD_XX.wav"
    clip = server.files.pop(last)
    text = failure("cremad", tmp_path, server.base)
    assert f"{server.base}{last} (the server answered 404)" in text
    assert "6 files are complete: run it again to continue" in text
    assert not (tmp_path / "cremad").exists()
    server.files[last] = clip
    server.requests.clear()
    download("cremad", tmp_path, server.base)
    assert server.requests == [last]


@pytest.mark.parametrize(
    ("sound", "message"),
    [
        (b"RIFF other", "the 3 files have the sha256 "),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "is a git-LFS pointer instead of the sound"),
        (b"", "is empty"),
    ],
)
def test_a_wrong_clip_of_cremad_is_refused(
    server: Server, clips: dict[str, bytes], tmp_path: Path, sound: bytes, message: str
) -> None:
    server.files[f"{SOUND}/AudioWAV/1001_DFA_ANG_XX.wav"] = sound
    assert message in failure("cremad", tmp_path, server.base)
    assert not (tmp_path / "cremad").exists()
    server.files[f"{SOUND}/AudioWAV/1001_DFA_ANG_XX.wav"] = clips["1001_DFA_ANG_XX"]
    assert download("cremad", tmp_path, server.base).is_dir()


@pytest.mark.parametrize("table", [b"<html>", b'"Filename"\n"../../evil"\n', b'"Filename"\n'])
def test_a_wrong_list_of_clips_is_refused(server: Server, clips: object, tmp_path: Path, table: bytes) -> None:
    path = f"{TABLES}/SentenceFilenames.csv"
    whole, server.files[path] = server.files[path], table
    assert "not CREMA-D's list of clips" in failure("cremad", tmp_path, server.base)
    server.files[path] = whole
    assert download("cremad", tmp_path, server.base).is_dir()


def file_list(sounds: dict[str, bytes]) -> bytes:
    """The response of Borealis to a request for the list of files."""
    files = [
        {"id": place, "filename": name, "checksum": {"type": "MD5", "value": hashlib.md5(sound).hexdigest()}}
        for place, (name, sound) in enumerate(sounds.items(), 100)
    ]
    entries = [{"label": file["filename"], "dataFile": file} for file in files]
    return json.dumps({"status": "OK", "data": entries}).encode()


def test_tess_is_verified_clip_by_clip(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sounds = {"OAF_back_angry.wav": b"RIFF one", "OA_bite_neutral.wav": b"RIFF two", "notes.txt": b"not wanted"}
    server.files = {f"/api/access/datafile/{place}": sound for place, sound in enumerate(sounds.values(), 100)}
    server.files[TESS_LIST] = file_list(sounds)
    assert "names 2 clips of TESS, not 2800" in failure("tess", tmp_path, server.base)
    monkeypatch.setattr(tess, "_CLIPS", 2)
    server.files["/api/access/datafile/101"] = b"RIFF bad"
    text = failure("tess", tmp_path, server.base)
    assert "OA_bite_neutral.wav has the md5 " in text
    assert "10.5683/SP2/E8H2MF" in text
    server.files["/api/access/datafile/101"] = b"RIFF two"
    server.requests.clear()
    folder = download("tess", tmp_path, server.base)
    assert files_in(folder) == {"files.json", "OAF_back_angry.wav", "OA_bite_neutral.wav"}
    assert server.requests == ["/api/access/datafile/101"]
    server.requests.clear()
    download("tess", tmp_path, server.base)
    assert server.requests == []


@pytest.mark.parametrize("text", [b"<html>", b"{}", b'{"data": [{}]}', b'{"data": 3}', b"[]"])
def test_an_invalid_response_of_borealis_is_refused(text: bytes) -> None:
    with pytest.raises(InputError, match="not a list of the files"):
        tess.parse_list(text)


def test_many_clips_are_downloaded_in_threads(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sounds = {f"OAF_{chr(97 + place)}_sad.wav": bytes([place]) * 100 for place in range(20)}
    server.files = {f"/api/access/datafile/{place}": sound for place, sound in enumerate(sounds.values(), 100)}
    server.files[TESS_LIST] = file_list(sounds)
    monkeypatch.setattr(tess, "_CLIPS", 20)
    folder = download("tess", tmp_path, server.base)
    assert all((folder / name).read_bytes() == sound for name, sound in sounds.items())


def test_savee_unknown_corpora_and_invalid_mirrors_are_refused(tmp_path: Path) -> None:
    savee = failure("savee", tmp_path)
    assert "http://kahlan.eps.surrey.ac.uk/savee/" in savee
    assert "ser-ft prepare" in savee
    assert files_in(tmp_path) == set()
    assert failure("iemocap", tmp_path) == "iemocap: no such corpus (there are ravdess, tess, cremad, savee)"
    for mirror in ("mirror.example.org", "ftp://mirror.example.org", "http://", "http://mirror.example.org:70000"):
        assert failure("ravdess", tmp_path, mirror).startswith(f"{mirror}: not the address of a mirror")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert "cannot be written to" in failure("ravdess", tmp_path / "file", "http://127.0.0.1:9")


@pytest.mark.parametrize("name", ["ravdess", "tess", "cremad"])
def test_every_download_has_a_published_checksum(name: str) -> None:
    first = CORPORA[name].downloads[0]
    assert first.md5 or first.sha256 or first.parse_list
    assert all(entry.url.startswith("https://") for entry in CORPORA[name].downloads)
