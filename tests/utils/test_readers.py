"""Small files that would take all memory, or no end of time, are refused in one line."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ser_ft.cli import main
from ser_ft.data.splits import read_split
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.utils.errors import InputError
from ser_ft.utils.readers import parse_json, parse_yaml, read_json, read_yaml

LEVELS = "abcdefghi"
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{below}'] * 9)}]\n" for below, name in itertools.pairwise(LEVELS)
)
YAML = {
    "aliases": (BOMB, "holds more than 200,000 values, with its aliases expanded"),
    "merged aliases": (
        "a: &a {x: 1}\n"
        + "".join(f"k: &{b} {{<<: [{','.join([f'*{a}'] * 9)}]}}\n" for a, b in itertools.pairwise(LEVELS)),
        "holds more than",
    ),
    "an alias of itself": ("a: &a [*a]", "contains itself"),
    "brackets": ("[" * 100_000, "depth"),
    "brackets that end": ("[" * 500 + "]" * 500, "nested too deeply"),
    "indentation": ("\n".join(f"{' ' * level}a:" for level in range(800)), "nested too deeply"),
    "dashes": ("- " * 5000 + "x", "depth"),
    "a number of base 60": (":".join(["59"] * 100_000), "more than 1,000 digits"),
    "no date": ("a: 2024-99-99", "not YAML"),
    "a Python object": ("!!python/object/apply:os.system [ls]", "not YAML"),
}
JSON = {
    "brackets": ("[" * 100_000, "nested too deeply"),
    "brackets that end": ("[" * 500 + "]" * 500, "nested too deeply"),
    "mappings": ('{"a":' * 5000, "nested too deeply"),
    "many lists": (f"[{','.join(['[]'] * 1000)}]", "more than 1,000 lists"),
    "a long number": ("9" * 100_000, "not JSON"),
    "an open string": ('"' + '\\"' * 100_000 + "\\", "not JSON"),
}


@pytest.mark.parametrize("case", YAML)
def test_yaml_that_would_exhaust_the_machine_is_wrong_input(case: str) -> None:
    text, message = YAML[case]
    with pytest.raises(InputError, match=message) as caught:
        parse_yaml(text, "recipe.yaml")
    assert str(caught.value).startswith("recipe.yaml: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("case", JSON)
def test_json_that_would_exhaust_the_machine_is_wrong_input(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ser_ft.utils.readers._MAX_CONTAINERS", 1000)
    text, message = JSON[case]
    with pytest.raises(InputError, match=message):
        parse_json(text, "split.json")


def test_a_file_without_end_is_refused() -> None:
    for read, size in ((read_yaml, "1 MiB"), (read_json, "32 MiB")):
        with pytest.raises(InputError, match=f"/dev/zero: larger than {size}"):
            read("/dev/zero")


def test_ordinary_files_are_read() -> None:
    assert parse_yaml("a: &x [1, 2]\nb: *x\nc: {<<: &m {d: 1e-3}, e: 1:30}", "")["b"] == [1, 2]
    brackets = {"[[[[": "]" * 1000, '"\\': ["{" * 1000] * 3}
    assert parse_json(json.dumps(brackets), "") == brackets


@pytest.mark.parametrize(
    "words",
    [
        ["--config", "bomb.yaml"],
        ["--config", "child.yaml"],
        ["--config", "text.yaml"],
        ["--data", "bomb.yaml"],
        ["--data.roots", BOMB],
        [f"--config={BOMB}"],
        ["--config", "deep.yaml"],
        ["--train.epochs", "[" * 5000],
    ],
)
def test_a_recipe_that_expands_is_refused_wherever_it_is_read(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bomb.yaml").write_text(BOMB)
    Path("deep.yaml").write_text("[" * 5000)
    Path("child.yaml").write_text("base: bomb.yaml\n")
    Path("text.yaml").write_text("data:\n  roots: |\n" + "".join(f"    {line}\n" for line in BOMB.splitlines()))
    assert main(["train", *words]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert len(error) < 1000


def test_variants_splits_and_run_folders_are_read_with_the_same_limits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bomb, run = tmp_path / "bomb.yaml", RunFolder(tmp_path / "run")
    bomb.write_text(BOMB)
    (tmp_path / "recipe.yaml").write_text("seed: 1\n")
    assert main(["sweep", str(tmp_path / "recipe.yaml"), "--variants", str(bomb), "--out", str(tmp_path / "o")]) == 2
    assert "bomb.yaml: holds more than" in capsys.readouterr().err
    run.write_text(run.config_file, BOMB)
    for file in (run.split_file, run.metrics_file, run.environment_file, tmp_path / "run" / "corpora.json"):
        run.write_text(file, "[" * 5000)
    for read in (lambda: run.config, lambda: run.split, lambda: run.metrics, lambda: run.environment):
        with pytest.raises(InputError, match=r"holds more|nested too deeply"):
            read()
    with pytest.raises(InputError, match=r"split\.json: its values are nested too deeply"):
        read_split(run.split_file)
    assert main(["audit", str(run.path)]) == 2
    assert main(["report", str(run.path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_a_bomb_takes_little_memory() -> None:
    limited = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**29, 2**29))\n"
        "import sys; from ser_ft.utils.readers import parse_yaml\n"
        "try: parse_yaml(sys.stdin.read(), 'x')\n"
        "except ValueError as error: print(error)"
    )
    result = subprocess.run([sys.executable, "-c", limited], input=BOMB, capture_output=True, text=True, check=True)
    assert "aliases expanded" in result.stdout
