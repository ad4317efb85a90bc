"""The model that ships with ser_ft: small, complete, equal in both of its files, and reproducible by its recipe."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ser_ft import EmotionRecognizer, audio
from ser_ft.cli import train
from ser_ft.data.synthetic.corpora import miniature_clips, synthesize_clip
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.inference.backends import SHIPPED_FILE, open_backend
from ser_ft.labels import SCHEMES
from ser_ft.models import SHIPPED, resolve_model_path
from ser_ft.models.registry import build_model

ROOT = Path(__file__).parents[2]
HOME = Path(resolve_model_path(SHIPPED)).parent


def synthetic_clip(index: int) -> np.ndarray:
    return audio.resample(*synthesize_clip(miniature_clips(1)[index]))


def test_it_is_small_and_complete_and_its_card_has_its_results() -> None:
    sizes = {file.name: file.stat().st_size for file in HOME.rglob("*") if file.is_file()}
    assert {"model.safetensors", "model.onnx"} <= sizes.keys()
    assert sum(sizes.values()) < 5e6
    card = (HOME / "model" / "README.md").read_text(encoding="utf-8")
    for word in ("RAVDESS", "CREMA-D, rebuilt audio", "non-commercial", "2024/1689", "benchmarks/shipped.py"):
        assert word in card
    for scores in RunFolder(HOME).metrics["parts"]["test"]["by_corpus"].values():
        assert (
            "| {uar:.3f} | {low:.3f} to {high:.3f} | {accuracy:.3f} |".format(**scores, **scores["uar_interval"])
            in card
        )
    speakers = json.loads((HOME / "split.json").read_text(encoding="utf-8"))["parts"]
    assert not any(name.startswith("tess") for part in speakers.values() for name in part["speakers"])


def test_both_of_its_files_give_the_same_probabilities() -> None:
    onnx, network = open_backend(SHIPPED_FILE, threads=1), open_backend(HOME / "model", "cpu")
    assert onnx.info.classes == network.info.classes == SCHEMES["eight"]
    assert onnx.info.threshold == network.info.threshold
    assert onnx.info.threshold is not None
    for seconds in (0.3, 2.0, 9.0):
        wave = np.resize(synthetic_clip(0), int(seconds * audio.SAMPLE_RATE))[None]
        np.testing.assert_allclose(onnx.probabilities(wave), network.probabilities(wave), atol=1e-4)


def test_the_loudness_does_not_change_the_prediction() -> None:
    recognizer = EmotionRecognizer(threads=1)
    for index in range(0, 12, 3):
        wave = synthetic_clip(index)
        plain, quiet = (recognizer((audio.SAMPLE_RATE, samples))[0] for samples in (wave, wave * np.float32(0.03)))
        assert plain["emotion"] == quiet["emotion"]
        assert plain["scores"] == pytest.approx(quiet["scores"], abs=0.01)


def test_silence_around_the_speech_changes_the_probabilities_little() -> None:
    recognizer = EmotionRecognizer(threads=1)
    silence = np.zeros(audio.SAMPLE_RATE, np.float32)
    for index in range(0, 12, 3):
        wave = synthetic_clip(index)
        plain, padded = (
            recognizer((audio.SAMPLE_RATE, samples))[0]["scores"]
            for samples in (wave, np.concatenate([silence, wave, silence]))
        )
        assert padded == pytest.approx(plain, abs=0.1)


def test_predict_with_it_needs_no_torch(tmp_path: Path) -> None:
    file = tmp_path / "clip.wav"
    file.write_bytes(audio.to_wav(synthetic_clip(0)))
    code = (
        "import sys; from ser_ft.cli import main; code = main(['predict', sys.argv[1], '--format', 'json']); "
        "print(code, sorted({'torch', 'transformers', 'datasets', 'pandas', 'matplotlib'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True)
    *answer, last = result.stdout.strip().splitlines()
    assert last == "0 []", result.stderr
    assert json.loads("\n".join(answer))[0]["emotion"] in SCHEMES["eight"]


def test_training_can_start_from_its_weights() -> None:
    extractor, model = build_model(SHIPPED, ("calm", "angry", "bored"), {}, {})
    logits = model(**extractor(synthetic_clip(0), return_tensors="pt")).logits
    assert logits.shape == (1, 3)
    name, weights = "networks.0.stem.weight", load_file(HOME / "model" / "model.safetensors")
    assert torch.equal(model.state_dict()[name], weights[name].float())


@pytest.mark.slow
def test_its_recipe_trains_the_same_network_on_the_same_features(miniature_folder: Path, tmp_path: Path) -> None:
    """On synthetic voices, for a few epochs: better than chance (0.125)."""
    settings = [
        f"--config={ROOT / 'recipes' / 'shipped.yaml'}",
        f"--data.prepared={miniature_folder}",
        "--split.kind=speaker",
        "--train.epochs=12",
        "--train.batch_size=8",
        "--train.ema_decay=0.9",
        "--baselines=[]",
        f"--out={tmp_path / 'run'}",
    ]
    assert train(settings) == 0
    run = RunFolder(tmp_path / "run")
    trained, shipped = (load_file(folder / "model.safetensors") for folder in (run.model, HOME / "model"))
    assert {name: value.shape for name, value in trained.items()} == {
        name: value.shape for name, value in shipped.items()
    }
    features = [json.loads((folder / "preprocessor_config.json").read_text()) for folder in (run.model, HOME / "model")]
    features[0].pop("auto_map", None)
    assert features[0] == features[1]
    assert run.metrics["parts"]["test"]["uar"] > 0.15
