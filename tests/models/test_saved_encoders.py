"""Saved encoders: stock transformers loads them and gives the same predictions, without ser_ft."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ser_ft import audio
from ser_ft.config.parser import parse
from ser_ft.data.prepare import open_prepared, prepare
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.inference.backends.torch import TorchBackend
from ser_ft.pipeline import train
from tests.helpers.tiny_encoders import FAMILIES

# Case -> checkpoint family and options.
TUNED: dict[str, tuple[str, list[str]]] = {
    family: (family, ["--tuning.mode=full"]) for family in (*FAMILIES, "wavlm-large", "wav2vec2-large")
} | {
    "wavlm by LoRA": ("wavlm", ["--tuning.mode=lora"]),
    "hubert's weighted layers": ("hubert", ["--tuning.mode=probe"]),
    "whisper with attention": ("whisper", ["--tuning.mode=full", "--model.head=attentive"]),
    "wav2vec2 with statistics": (
        "wav2vec2",
        ["--tuning.mode=full", "--model.head=statistics", "--model.layers=[2, 4]"],
    ),
    "wavlm with attention": ("wavlm", ["--tuning.mode=probe", "--model.head=attentive"]),
    "stock whisper of 1 s": (
        "whisper",
        ["--tuning.mode=full", "--model.head=stock", "--model.config_overrides={max_source_positions: 50}"],
    ),
}
# Their pooling head is no part of transformers: its code is saved with them.
WITH_CODE = ("whisper", "whisper with attention", "wav2vec2 with statistics", "wavlm with attention")
# Predictions are computed in float32, but from convolutional features that are cached in half precision (11 bits).
# Measured differences of probabilities: 3e-5 at most, and 6e-8 without the cache.
TOLERANCE = 2e-4
_STOCK = """
import json, sys
sys.modules["ser_ft"] = None  # importing it fails
import numpy as np
from transformers import pipeline
request, answers = json.load(open("request.json")), {}
for case, folder in request["folders"].items():
    try:
        classify = pipeline("audio-classification", folder, trust_remote_code=case in request["with_code"])
        answers[case] = {}
        for name in request["clips"]:
            clip = {"raw": np.load(f"{name}.npy"), "sampling_rate": 16000}
            answers[case][name] = {row["label"]: row["score"] for row in classify(clip, top_k=None)}
    except Exception as error:
        answers[case] = f"{type(error).__name__}: {error}"
assert sys.modules["ser_ft"] is None and not any(name.startswith("ser_ft.") for name in sys.modules)
json.dump(answers, open("answers.json", "w"))
"""


@pytest.fixture(scope="module")
def table_folder(miniature_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared table of the two synthetic RAVDESS speakers."""
    folder = tmp_path_factory.mktemp("voices") / "table"
    prepare(miniature_tree / "RAVDESS", folder, verbose=False)
    return folder


@pytest.fixture(scope="module")
def clips(table_folder: Path) -> dict[str, np.ndarray]:
    """Three clips of both speakers, that is of training and test, by id, and their first second."""
    table = open_prepared(table_folder)
    selected = table.select(np.linspace(0, len(table) - 1, 3).round().astype(int))
    whole = {row["id"]: audio.from_wav(row["audio"]["bytes"]) for row in selected}
    return whole | {f"{name}, 1 s": wave[: audio.SAMPLE_RATE] for name, wave in whole.items()}


@pytest.fixture(scope="module")
def tuned(
    tiny_encoder: Callable[[str], Path], table_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, RunFolder]:
    """The runs of all cases, with learning rates that change the weights within one epoch."""
    root = tmp_path_factory.mktemp("runs")
    common = [f"--data.prepared={table_folder}", "--split.kind=kfold", "--split.folds=2", "--split.validation=0"]
    common += ["--train.epochs=1", "--train.learning_rate=0.01", "--tuning.learning_rate=0.003", "--baselines=[]"]
    runs = {}
    for number, (case, (family, tuning)) in enumerate(TUNED.items()):
        options = [f"--model.name={tiny_encoder(family)}", f"--out={root / f'run{number}'}", *tuning]
        runs[case] = train(parse([*common, *options], "test"), verbose=False).folder
    return runs


@pytest.fixture(scope="module")
def stock_predictions(
    tuned: Mapping[str, RunFolder], clips: Mapping[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Predictions of stock transformers for each saved model, from one process that cannot import ser_ft."""
    folder = tmp_path_factory.mktemp("stock")
    for name, wave in clips.items():
        np.save(folder / f"{name}.npy", wave)
    folders = {case: str(run.model) for case, run in tuned.items()}
    (folder / "request.json").write_text(json.dumps({"folders": folders, "clips": list(clips), "with_code": WITH_CODE}))
    done = subprocess.run(
        [sys.executable, "-c", _STOCK], cwd=folder, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return dict(json.loads((folder / "answers.json").read_text()))


@pytest.mark.slow
@pytest.mark.parametrize("case", TUNED)
def test_stock_pipeline_gives_the_predictions_without_ser_ft(
    case: str, tuned: Mapping[str, RunFolder], stock_predictions: Mapping[str, Any], clips: Mapping[str, np.ndarray]
) -> None:
    folder, prediction = tuned[case], stock_predictions[case]
    assert not isinstance(prediction, str), prediction
    classes = folder.metrics["classes"]
    names = [name for name in clips if name.endswith(", 1 s") == case.startswith("stock")]
    tolerance = TOLERANCE
    if case.startswith("stock"):
        # transformers cuts and pads clips to its fixed length of 1 s, and mirrors them at its end.
        tolerance = 2e-3
        backend = TorchBackend(str(folder.path), "cpu")
        expected = np.concatenate([backend.probabilities(clips[name][None]) for name in names])
    else:
        expected = folder.predictions.set_index("id").loc[names, classes].to_numpy(dtype=float)
    assert (expected.max(axis=0) - expected.min(axis=0)).max() > 10 * tolerance, "the predictions do not differ"
    assert all(sorted(prediction[name]) == sorted(classes) for name in names)
    actual = np.array([[prediction[name][label] for label in classes] for name in names])
    assert np.abs(actual - expected).max() < tolerance


@pytest.mark.slow
@pytest.mark.parametrize("case", TUNED)
def test_a_saved_model_names_its_classes_and_no_local_path(
    case: str, tuned: Mapping[str, RunFolder], tiny_encoder: Callable[[str], Path], table_folder: Path
) -> None:
    """A local path would reveal the user's name to everyone who downloads the model."""
    folder = tuned[case]
    config = json.loads((folder.model / "config.json").read_text())
    classes = folder.metrics["classes"]
    assert (len(classes), config["dtype"]) == (8, "float32")
    assert [config["id2label"][str(number)] for number in range(len(classes))] == classes
    assert config["label2id"] == {label: number for number, label in enumerate(classes)}
    files = {"config.json", "model.safetensors", "preprocessor_config.json"}
    files |= {"speech_classifier.py", "whisper.py"} if case in WITH_CODE else set()
    assert {file.name for file in folder.model.iterdir()} == files
    local = [folder.path.parent, tiny_encoder(TUNED[case][0]).parent, table_folder.parent, Path.home(), Path.cwd()]
    for file in folder.model.glob("*.json"):
        text = file.read_text()
        assert not [path for path in local if len(str(path)) > 1 and str(path) in text], file.name
        text = text.replace('"model_type": "ser_ft_speech"', "") if case in WITH_CODE else text
        assert "ser_ft" not in text, "stock transformers would look for code of ser_ft"
