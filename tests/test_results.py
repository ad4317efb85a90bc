"""The tables of the results pages, made by benchmarks/results.py from run folders."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest

from ser_ft.utils.errors import InputError
from tests.helpers.runs import write_folds, write_run


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    module = importlib.import_module("results")
    monkeypatch.setattr(module, "HOME", tmp_path)
    return module


def test_pretrained_models_are_first_and_marked_and_compared_with_the_mfcc_cnn(
    results: ModuleType, tmp_path: Path
) -> None:
    write_folds(tmp_path / "transfer" / "frozen", model="openai/whisper-base (probe)", skill=0.5)
    write_folds(tmp_path / "small" / "mfcc", skill=1.0, baselines=("svm",))
    write_folds(tmp_path / "small" / "plain", model="plain-cnn", skill=3.0)
    rows = [line for line in results.block("table transfer small cremad").split("\n") if line.startswith("| ")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [row[0] for row in cells[1:]] == ["openai/whisper-base (probe)", "plain-cnn", "mfcc-cnn", "svm"]
    assert [row[1] for row in cells[1:]] == ["**pretrained**", "random", "random", ""]
    assert cells[0][3] == "minus mfcc-cnn (95 % interval)"
    assert cells[1][3].startswith("-0.")
    assert cells[2][3].startswith("+0.")
    assert cells[3][3:5] == ["", ""]
    assert "*Not measured yet: cremad.*" in results.block("table transfer cremad")


def test_models_of_other_folds_or_clips_are_not_compared(results: ModuleType, tmp_path: Path) -> None:
    write_folds(tmp_path / "transfer", model="openai/whisper-base (probe)", folds=4)
    write_folds(tmp_path / "small")
    with pytest.raises(InputError, match="tested in other folds"):
        results.block("table transfer small")
    write_folds(tmp_path / "fewer", model="plain-cnn", num_speakers=6)
    with pytest.raises(InputError, match="not tested on the same clips"):
        results.block("table small fewer")


@pytest.mark.parametrize("folder", ["/home/me/whisper-base", "whisper-base"])
def test_a_folder_of_this_machine_is_not_kept_in_the_repository(
    results: ModuleType, tmp_path: Path, folder: str
) -> None:
    run = write_run(tmp_path / "sweep" / "fold0-seed0", model="whisper-base (probe)")
    text = run.config_file.read_text().replace(str(run.path), "sweeps/x").replace("whisper-base", folder)
    run.write_text(run.config_file, text)
    run.write_json(run.environment_file, {"command": ["ser-ft", "train", f"--model.name={folder}"]})
    with pytest.raises(InputError, match=f"names {folder}"):
        results.keep([tmp_path / "sweep"], "kept", {})
    results.keep([tmp_path / "sweep"], "kept", {folder: "openai/whisper-base"})
    kept = tmp_path / "kept" / "fold0-seed0"
    assert "name: 'openai/whisper-base'" in (kept / "config.yaml").read_text()
    assert "--model.name=openai/whisper-base" in (kept / "environment.json").read_text()
