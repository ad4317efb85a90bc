"""The Space of a model: the demo unchanged, the model's name, and a wheel of ser_ft to install."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from ser_ft import push
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.hub import UploadError, space
from ser_ft.hub.upload import Upload
from ser_ft.utils.errors import InputError
from tests.helpers.corpus_files import write
from tests.helpers.hub_server import TOKEN, Blob, Hub

WHEEL = "ser_ft-0.1.0-py3-none-any.whl"


def use_wheel(monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes]) -> None:
    """Replace the build of ser_ft's wheel by a wheel with these files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    monkeypatch.setattr(space, "build_wheel", lambda: (buffer.getvalue(), WHEEL))


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder instead of the demo, and a small wheel instead of ser_ft's."""
    folder = tmp_path / "demo"
    files = {
        "__pycache__/app.cpython-311.pyc": b"compiled",
        ".cache": b"hidden",
        "app.py": b"import gradio\nTEMP_DIR = '/tmp/demo'\n",
        "static/page.css": b"body {}\n",
        "requirements.txt": b"gradio>=6\nser_ft[demo]\n",
        "README.md": b"---\ntitle: Emotion\nsdk: gradio\nsdk_version: 6.0.0\n---\n\nA demo.\n",
    }
    write(folder, files)
    monkeypatch.setattr(space, "demo_folder", lambda: folder)
    use_wheel(monkeypatch, {"ser_ft/__init__.py": b""})
    return folder


def test_a_space_holds_the_demo_the_models_name_and_the_wheel(hub: Hub, finished_run: RunFolder, demo: Path) -> None:
    push(finished_run.path, "someone/mine", space=True)
    assert hub.model("someone/mine").files["metrics.json"]
    repository = hub.repositories["space", "someone/mine"]
    assert repository.sdk == "gradio"
    assert len(repository.commits) == 2
    sent = repository.files
    assert sent.keys() == {"app.py", "static/page.css", "README.md", "model.txt", "requirements.txt", WHEEL}
    assert sent["model.txt"] == b"someone/mine\n"
    assert sent["app.py"] == (demo / "app.py").read_bytes()
    address = f"{hub.url}/spaces/someone/mine/resolve/main/{WHEEL}"
    assert sent["requirements.txt"].decode().splitlines() == ["gradio>=6", f"ser_ft[demo] @ {address}"]


def test_a_second_push_fills_a_new_space_but_keeps_an_edited_card(
    hub: Hub, finished_run: RunFolder, demo: Path
) -> None:
    hub.fail("POST /api/spaces/.*/commit/", status=500)
    with pytest.raises(UploadError):
        push(finished_run.path, "someone/mine", space=True)
    repository = hub.repositories["space", "someone/mine"]
    assert repository.files.keys() == {"README.md"}, "the card that the Hub writes"
    hub.faults.clear()
    push(finished_run.path, "someone/mine", space=True)
    assert repository.files["README.md"] == (demo / "README.md").read_bytes()
    repository.commit("theirs", {"README.md": Blob(b"theirs", False)})
    with pytest.raises(InputError, match=r"already holds other files \(README\.md\)"):
        push(finished_run.path, "someone/mine", space=True)


@pytest.mark.usefixtures("demo")
def test_a_single_commit_of_someone_else_is_not_replaced(hub: Hub, finished_run: RunFolder) -> None:
    """The history may be squashed, or the Space may be a copy of another."""
    hub.create("space", "someone/mine", sdk="gradio").blobs["theirs.py"] = Blob(b"theirs", False)
    with pytest.raises(InputError, match="already holds other files"):
        push(finished_run.path, "someone/mine", space=True)


def test_the_demo_of_the_checkout_is_a_space(monkeypatch: pytest.MonkeyPatch) -> None:
    use_wheel(monkeypatch, {"ser_ft/__init__.py": b""})
    upload = space.space_upload("someone/mine")
    upload.check()
    assert upload.sdk == "gradio"
    assert {"app.py", "README.md", "ser_ft_demo/server.py", "ser_ft_demo/style.css", "model.txt"} <= upload.files.keys()
    assert b"ser_ft[demo] @ http" in bytes(upload.files["requirements.txt"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"RIFF\0\0\0\0WAVEa voice", "contains audio, which is never sent"),
        (b"<audio src='data:audio/wav;base64,UklGRgAAAABXQVZFZm10'>", "contains audio, which is never sent"),
        (TOKEN.encode(), "contains what looks like a token of the Hub"),
    ],
)
def test_the_files_of_the_wheel_and_of_the_demo_are_checked(
    finished_run: RunFolder, demo: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
) -> None:
    use_wheel(monkeypatch, {"ser_ft/assets/other": content})
    with pytest.raises(InputError, match=rf"{WHEEL}/ser_ft/assets/other: {message}"):
        push(finished_run.path, "someone/mine", space=True, dry_run=True)
    (demo / "example").write_bytes(content)
    with pytest.raises(InputError, match=f"^example: {message}"):
        push(finished_run.path, "someone/mine", space=True, dry_run=True)


def test_a_folder_that_is_not_a_space_is_refused(finished_run: RunFolder, demo: Path) -> None:
    with pytest.raises(InputError, match="--space does not work with --private"):
        push(finished_run.path, "someone/mine", space=True, private=True, dry_run=True)
    (demo / "README.md").write_text("A demo.\n")
    with pytest.raises(InputError, match="does not name the sdk"):
        push(finished_run.path, "someone/mine", space=True, dry_run=True)
    (demo / "app.py").unlink()
    with pytest.raises(InputError, match=r"app\.py is missing"):
        push(finished_run.path, "someone/mine", space=True, dry_run=True)


def test_a_wheel_needs_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "__file__", str(tmp_path / "site-packages" / "ser_ft" / "hub" / "space.py"))
    with pytest.raises(InputError, match="installed without its sources"):
        space.build_wheel()


@pytest.mark.slow
def test_the_wheel_holds_code_templates_and_recipes(tmp_path: Path) -> None:
    try:
        content, name = space.build_wheel()
    except InputError as error:
        pytest.skip(f"no network to install the build tools: {error}")
    Upload("someone/mine", "space", {name: content}, "", package_files=True).check()
    (tmp_path / name).write_bytes(content)
    files = {"ser_ft/hub/publish.py", "ser_ft/report/cards/model_card.md.j2", "ser_ft/recipes/quickstart.yaml"}
    assert files <= set(zipfile.ZipFile(tmp_path / name).namelist())
