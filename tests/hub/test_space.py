"""The Space of a model: the demo as it is, the model's name beside it, and ser_ft to be installed."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ser_ft import push
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.hub import UploadError, space
from ser_ft.hub.upload import Upload
from ser_ft.utils.errors import InputError
from tests.helpers.hub_server import TOKEN, Blob, Hub

MakeRun = Callable[[str], RunFolder]


WHEEL = "ser_ft-0.1.0-py3-none-any.whl"


def wheel(files: dict[str, bytes]) -> bytes:
    """Return a wheel of these files."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return packed.getvalue()


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the demo, and a wheel that stands for ser_ft's."""
    folder = tmp_path / "demo"
    (folder / "__pycache__").mkdir(parents=True)
    (folder / "__pycache__" / "app.cpython-311.pyc").write_bytes(b"compiled")
    (folder / ".cache").write_text("hidden")
    (folder / "app.py").write_text("import gradio\nSCRATCH = '/tmp/demo'\n")
    (folder / "style" / "look.css").parent.mkdir()
    (folder / "style" / "look.css").write_text("body {}\n")
    (folder / "requirements.txt").write_text("gradio>=6\nser_ft[demo]\n")
    (folder / "README.md").write_text("---\ntitle: Emotion\nsdk: gradio\nsdk_version: 6.0.0\n---\n\nA demo.\n")
    monkeypatch.setattr(space, "demo_folder", lambda: folder)
    monkeypatch.setattr(space, "build_wheel", lambda: (wheel({"ser_ft/__init__.py": b""}), WHEEL))
    return folder


def test_the_demo_is_sent_with_the_models_name_and_the_wheel(hub: Hub, make_run: MakeRun, demo: Path) -> None:
    push(make_run("mfcc-cnn").path, "someone/mine", space=True, tell=lambda _: None)
    assert hub.model("someone/mine").files["metrics.json"]
    made = hub.repositories["space", "someone/mine"]
    assert made.sdk == "gradio"
    assert len(made.commits) == 2
    sent = made.files
    assert sent.keys() == {
        "app.py",
        "style/look.css",
        "README.md",
        "model.txt",
        "requirements.txt",
        "ser_ft-0.1.0-py3-none-any.whl",
    }
    assert sent["model.txt"] == b"someone/mine\n"
    assert sent["app.py"] == (demo / "app.py").read_bytes()
    address = f"{hub.url}/spaces/someone/mine/resolve/main/ser_ft-0.1.0-py3-none-any.whl"
    assert sent["requirements.txt"].decode().splitlines() == ["gradio>=6", f"ser_ft[demo] @ {address}"]


def test_a_space_that_was_made_and_no_more_is_filled_by_a_second_push(hub: Hub, make_run: MakeRun, demo: Path) -> None:
    """The Hub's own card is in it; a card that someone wrote since is theirs."""
    run = make_run("mfcc-cnn")
    hub.fail("POST /api/spaces/.*/commit/", status=500)
    with pytest.raises(UploadError):
        push(run.path, "someone/mine", space=True, tell=lambda _: None)
    made = hub.repositories["space", "someone/mine"]
    assert made.files.keys() == {"README.md"}
    hub.faults.clear()
    push(run.path, "someone/mine", space=True, tell=lambda _: None)
    assert made.files["README.md"] == (demo / "README.md").read_bytes()
    made.commit("theirs", {"README.md": Blob(b"theirs", False)})
    with pytest.raises(InputError, match=r"holds something else already \(README\.md\)"):
        push(run.path, "someone/mine", space=True, tell=lambda _: None)


def test_one_commit_of_another_is_not_taken_for_the_hubs_own(hub: Hub, make_run: MakeRun, demo: Path) -> None:
    """As where a history was squashed, or a Space is a copy of another."""
    made = hub.make("space", "someone/mine", sdk="gradio")
    made.commits[-1][2]["theirs.py"] = Blob(b"theirs", False)
    with pytest.raises(InputError, match="holds something else already"):
        push(make_run("mfcc-cnn").path, "someone/mine", space=True, tell=lambda _: None)


def test_the_demo_of_this_checkout_is_a_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "build_wheel", lambda: (wheel({"ser_ft/__init__.py": b""}), WHEEL))
    made = space.space_upload("someone/mine")
    made.check()
    assert made.sdk == "gradio"
    assert {"app.py", "README.md", "ser_ft_demo/server.py", "ser_ft_demo/style.css", "model.txt"} <= made.files.keys()
    assert b"ser_ft[demo] @ http" in bytes(made.files["requirements.txt"])


def test_no_sound_goes_with_the_demo(make_run: MakeRun, demo: Path) -> None:
    run = make_run("mfcc-cnn")
    (demo / "example.wav").write_bytes(b"RIFF\0\0\0\0WAVEa voice")
    with pytest.raises(InputError, match=r"example\.wav: holds sound, which is never sent"):
        push(run.path, "someone/mine", space=True, dry_run=True)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"RIFF\0\0\0\0WAVEa voice", "holds sound, which is never sent"),
        (b"<audio src='data:audio/wav;base64,UklGRgAAAABXQVZFZm10'>", "holds sound, which is never sent"),
        (TOKEN.encode(), "holds what looks like a token of the Hub"),
    ],
)
def test_the_wheel_is_looked_through(
    make_run: MakeRun, demo: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, said: str
) -> None:
    monkeypatch.setattr(space, "build_wheel", lambda: (wheel({"ser_ft/assets/left": content}), WHEEL))
    with pytest.raises(InputError, match=rf"{WHEEL}/ser_ft/assets/left: {said}"):
        push(make_run("mfcc-cnn").path, "someone/mine", space=True, dry_run=True)


def test_what_is_no_demo_is_refused(make_run: MakeRun, demo: Path) -> None:
    run = make_run("mfcc-cnn")
    with pytest.raises(InputError, match="--space does not go with --private"):
        push(run.path, "someone/mine", space=True, private=True, dry_run=True)
    (demo / "README.md").write_text("A demo.\n")
    with pytest.raises(InputError, match="does not say which sdk"):
        push(run.path, "someone/mine", space=True, dry_run=True)
    (demo / "app.py").unlink()
    with pytest.raises(InputError, match=r"app\.py is missing"):
        push(run.path, "someone/mine", space=True, dry_run=True)


def test_without_sources_there_is_no_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "__file__", str(tmp_path / "site-packages" / "ser_ft" / "hub" / "space.py"))
    with pytest.raises(InputError, match="installed without its sources"):
        space.build_wheel()


@pytest.mark.slow
def test_the_wheel_is_built_from_the_sources(tmp_path: Path) -> None:
    try:
        content, name = space.build_wheel()
    except InputError as error:
        pytest.skip(f"no network to fetch the build tools from: {error}")
    Upload("someone/mine", "space", {name: content}, "", ours=True).check()
    (tmp_path / name).write_bytes(content)
    inside = zipfile.ZipFile(tmp_path / name).namelist()
    assert {"ser_ft/hub/publish.py", "ser_ft/report/model_card.md.j2", "ser_ft/recipes/quickstart.yaml"} <= set(inside)
