"""Caches that cannot be written are named before work starts, and commands that need none work without."""

from io import StringIO
from pathlib import Path

import datasets
import huggingface_hub.constants
import pytest

import ser_ft
from ser_ft.cli import main
from ser_ft.utils.caches import cache_home, check_cache
from ser_ft.utils.errors import InputError
from ser_ft.utils.hub_offline import offline_if_unreachable


@pytest.fixture
def no_folder(tmp_path: Path) -> Path:
    """A path that cannot be created, whoever runs the tests, because a file is in its way."""
    (tmp_path / "file").write_text("in the way")
    return tmp_path / "file" / "cache"


@pytest.mark.parametrize(
    "command",
    [
        "prepare miniature --out OUT/table",
        "train --data.prepared TABLE --out OUT/run",
        "train --data.roots miniature --out OUT/run",
        "quickstart --out OUT/run",
        "sweep RECIPE --data.prepared TABLE --out OUT/sweep",
        "evaluate shipped --data TABLE --out OUT/run",
        "probe some/encoder --data TABLE",
    ],
)
def test_a_cache_that_cannot_be_written_is_named_before_the_command_starts(
    command: str,
    no_folder: Path,
    miniature_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SER_FT_CACHE", str(no_folder))
    names = {"OUT": str(tmp_path), "TABLE": str(miniature_folder), "RECIPE": "recipes/mfcc_cnn_ravdess.yaml"}
    for name, value in names.items():
        command = command.replace(name, value)
    assert main(command.split()) == 2
    output = capsys.readouterr()
    assert output.err.startswith(f"ser-ft: {no_folder}: this cache cannot be written, because {no_folder.parent} is no")
    assert output.err.count("\n") == 1
    assert "set SER_FT_CACHE to one" in output.err
    assert "reading" not in output.err
    assert not [path.name for path in tmp_path.iterdir() if path.name != "file" and not path.name.startswith(".")]


def test_the_variables_that_move_each_cache_are_named(
    no_folder: Path, miniature_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SER_FT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(no_folder))
    with pytest.raises(InputError, match="set SER_FT_CACHE, or XDG_CACHE_HOME for all programs, to one that can"):
        cache_home()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", no_folder)
    with pytest.raises(InputError, match="set HF_DATASETS_CACHE or HF_HOME to one that can"):
        ser_ft.load_corpora(miniature_tree, verbose=False)
    with pytest.raises(InputError, match="set HF_DATASETS_CACHE or HF_HOME to one that can"):
        ser_ft.load_table("someone/voices", {})
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", no_folder)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.create_connection", lambda *_, **__: StringIO())
    with pytest.raises(InputError, match="set HF_HOME to one that can"), offline_if_unreachable(local=False):
        raise PermissionError("the download cannot be written")


def test_a_cache_that_does_not_exist_yet_passes_and_is_not_created(tmp_path: Path) -> None:
    assert check_cache(tmp_path / "a" / "b", "SER_FT_CACHE") == tmp_path / "a" / "b"
    assert not (tmp_path / "a").exists()
