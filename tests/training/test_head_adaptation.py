"""`ser-ft adapt`: a model is fitted to a few clips, and its gain for further speakers is not overstated."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ser_ft.cli import main
from ser_ft.data.prepare import open_prepared
from ser_ft.evaluation.evaluate import evaluate
from ser_ft.evaluation.run_folder import RunFolder, find_model_folder
from ser_ft.inference.recognizer import EmotionRecognizer
from ser_ft.models.encoder_spec import find_encoder
from ser_ft.models.encoders import load_encoder
from ser_ft.models.pretrained import PretrainedClassifier, last_linear_layer
from ser_ft.training.head_adaptation import _cross_validate, _Problem, adapt_head, describe
from ser_ft.utils.errors import InputError

CLASSES = ("neutral", "happy", "sad", "angry")


@pytest.fixture(scope="module")
def table(miniature_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty clips of four synthetic speakers."""
    return part(miniature_folder, tmp_path_factory.mktemp("own") / "own", 4, 10)


def part(prepared: Path, out: Path, speakers: int, clips: int) -> Path:
    """Write the first clips, of known classes, of the first speakers of a table."""
    table = open_prepared(prepared)
    known = [table.features["emotion"].names.index(name) for name in CLASSES]
    names, is_known = np.array(table["speaker"]), np.isin(table["emotion"], known)
    rows = [row for name in np.unique(names)[:speakers] for row in np.flatnonzero(is_known & (names == name))[:clips]]
    table.select(rows).save_to_disk(out)
    shutil.copy(prepared / "corpora.json", out)
    return out


@pytest.mark.parametrize("family", ["own network", "whisper", "wav2vec2"])
def test_an_adapted_model_is_a_model_for_every_command(
    family: str, tiny_run: Path, tiny_encoder: Callable[[str], Path], table: Path, tmp_path: Path
) -> None:
    model = tiny_run
    if family != "own network":
        model = tmp_path / "encoder"
        torch.manual_seed(0)
        spec = find_encoder(str(tiny_encoder(family)), CLASSES)
        load_encoder(spec).save_pretrained(model)
        spec.extractor.save_pretrained(model)
    out = tmp_path / "adapted"
    result = adapt_head(model, table, out, verbose=False)
    assert (result.clips, result.speakers) == (40, 4)
    assert result.before is not None
    assert result.after is not None
    assert result.comparison is not None
    assert result.comparison.difference == pytest.approx(result.after - result.before)
    assert json.loads((out / "adaptation.json").read_text())["after"] == result.after
    clips = [{"array": np.random.default_rng(0).normal(0, 0.1, 16_000), "sampling_rate": 16_000}]
    (before,), (after,) = (EmotionRecognizer(folder)(clips) for folder in (model, out))
    assert list(after["scores"]) == list(CLASSES)
    assert before["scores"] != after["scores"]
    folders = (find_model_folder(model), out / "model")
    first, second = (dict(PretrainedClassifier.load(str(folder)).model.state_dict()) for folder in folders)
    changed = {name for name in first if not torch.equal(first[name], second[name])}
    assert changed == {"classifier.weight", "classifier.bias"}
    with pytest.raises(InputError, match="trained or validated on the speakers of all clips"):
        evaluate(out, table, tmp_path / "evaluated", verbose=False)


def problem(gain: float, speakers: int = 6, clips: int = 20) -> _Problem:
    """Return a model that knows nothing, for clips whose inputs tell `gain` about their labels."""
    generator = np.random.default_rng(1)
    labels = np.tile(np.arange(4), speakers * clips // 4)
    inputs = gain * np.eye(4)[labels] @ generator.normal(size=(4, 8)) + generator.normal(size=(len(labels), 8))
    names = np.repeat([f"own-{number}" for number in range(speakers)], clips)
    logits = generator.normal(size=(len(labels), 4))
    return _Problem(inputs.astype(np.float32), logits, labels, np.ones(logits.shape, dtype=bool), names)


def test_the_expected_gain_is_that_of_speakers_whose_clips_were_not_used() -> None:
    helpful, _ = _cross_validate(problem(3.0), RunFolder("x"), False)
    assert helpful.after is not None
    assert helpful.before is not None
    assert helpful.after > helpful.before + 0.4
    assert "It helps." in describe(helpful)
    # Inputs without information, which could be learned by heart.
    useless, _ = _cross_validate(problem(0.0), RunFolder("x"), False)
    assert useless.after is not None
    assert useless.after < 0.4
    assert "It helps." not in describe(useless)


def test_classes_without_clips_keep_their_weights() -> None:
    task = problem(3.0)
    change = task.fit(np.flatnonzero(task.labels != 2), 1.0)
    assert not change[:, 2].any()
    assert change[:, 1].any()


def test_the_command_says_what_to_expect_or_that_it_is_unknown(
    tiny_run: Path, miniature_folder: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["adapt", str(tiny_run), "--data", str(table), "--out", str(out)]) == 0
    assert "UAR expected for further speakers, adapted:" in capsys.readouterr().out
    assert main(["adapt", str(tiny_run), "--data", str(table), "--out", str(out)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    own = part(miniature_folder, tmp_path / "one", 1, 12)
    assert main(["adapt", str(tiny_run), "--data", str(own), "--out", str(out), "--overwrite"]) == 0
    assert "is unknown" in capsys.readouterr().out
    few = part(miniature_folder, tmp_path / "few", 2, 3)
    assert main(["adapt", str(tiny_run), "--data", str(few), "--out", str(tmp_path / "none")]) == 2
    assert "at least 10 are needed" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    assert last_linear_layer(PretrainedClassifier.load(str(out / "model")).model).out_features == len(CLASSES)
