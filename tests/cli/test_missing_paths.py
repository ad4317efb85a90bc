"""A path on the command line that does not exist is wrong input, which is said before anything is read."""

from pathlib import Path

import pytest

from ser_ft.cli import main
from ser_ft.cli.training import pretrain


@pytest.mark.parametrize(
    "command",
    [
        "predict none.wav",
        "predict FILE none",
        "predict FILE none/ --out OUT/rows.csv",
        "predict FILE --model none.onnx",
        "predict FILE --model ./none",
        "predict FILE --model runs/none/model",
        "monitor none.wav --out OUT/report",
        "monitor FILE none --out OUT/report",
        "monitor FILE --model ./none --out OUT/report",
        "prepare none --out OUT/table",
        "prepare FOLDER none --out OUT/table",
        "prepare mine=none.csv --out OUT/table",
        "prepare --dataset ./none --out OUT/table",
        "audit none",
        "audit TABLE --split none.json",
        "explore none --out OUT/page",
        "augment none.wav --out OUT/versions",
        "augment FILE --noise-dir none --out OUT/versions",
        "train --config none.yaml",
        "train --data.prepared none --out OUT/run",
        "train --data.roots [FOLDER,none] --out OUT/run",
        "train --data.roots [FOLDER] --split.kind file --split.file none.json --out OUT/run",
        "train --data.roots [FOLDER] --model.name ./none --out OUT/run",
        "sweep none.yaml --out OUT/sweep",
        "sweep RECIPE --variants none.yaml --out OUT/sweep",
        "sweep RECIPE --data.prepared none --out OUT/sweep",
        "probe ./none --data TABLE",
        "probe ./none --data none",
        "evaluate ./none --data TABLE --out OUT/run",
        "evaluate shipped --data none --out OUT/run",
        "fuse none other --out OUT/run",
        "compare none --out OUT/page.html",
        "compare name=none --out OUT/page.html",
        "compare none --data none --out OUT/page.html",
        "report none",
        "export ./none --out OUT/model.onnx",
        "export shipped --data none --out OUT/model.onnx",
        "push none someone/name --dry-run",
        "demo --certificate none --key none",
    ],
)
def test_a_missing_path_is_one_line_and_nothing_is_read_or_written(
    command: str,
    miniature_tree: Path,
    miniature_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def read(*_: object, **__: object) -> None:
        raise AssertionError("recordings are read")

    for name in ("ser_ft.audio.decode", "ser_ft.audio.io.read_file", "ser_ft.data.roots._scan"):
        monkeypatch.setattr(name, read)
    file = next(miniature_tree.rglob("*.wav"))
    names = {"OUT": tmp_path, "FOLDER": miniature_tree, "TABLE": miniature_folder, "FILE": file}
    names["RECIPE"] = Path("recipes/mfcc_cnn_ravdess.yaml").absolute()
    for name, value in names.items():
        command = command.replace(name, str(value))
    monkeypatch.chdir(tmp_path)
    assert main(command.split()) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("ser-ft: ")
    assert output.err.count("\n") == 1
    assert "none" in output.err
    assert not [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")]


def test_pretraining_names_missing_data_before_it_loads_the_encoder(capsys: pytest.CaptureFixture[str]) -> None:
    assert pretrain(["--data.roots", "[none]", "--model.name", "./none-either"]) == 2
    assert capsys.readouterr().err == "ser-ft: none: no such file or folder\n"
