"""The models that ship with ser_ft: complete, equal in both of their files, and reproducible by their recipes."""

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
from ser_ft.evaluation.provenance import speakers_seen_in_training
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.inference.backends import open_backend
from ser_ft.labels import SCHEMES
from ser_ft.models import SHIPPED, SHIPPED_MODELS, SMALL, resolve_model_path, shipped_file
from ser_ft.models.registry import build_model
from tests.helpers.tiny_encoders import write_tiny_backbone

ROOT = Path(__file__).parents[2]
TINY_WHISPER = {"d_model": 16, "encoder_layers": 4, "encoder_ffn_dim": 16, "max_source_positions": 1500}
HOMES = {name: Path(resolve_model_path(name)).parent for name in SHIPPED_MODELS}
MAX_BYTES = {SHIPPED: 31e6, SMALL: 5e6}


def synthetic_clip(index: int) -> np.ndarray:
    return audio.resample(*synthesize_clip(miniature_clips(1)[index]))


@pytest.mark.parametrize("name", SHIPPED_MODELS)
def test_it_is_small_and_complete_and_its_card_has_its_results(name: str) -> None:
    home = HOMES[name]
    sizes = {file.name: file.stat().st_size for file in home.rglob("*") if file.is_file()}
    assert {"model.safetensors", "model.onnx"} <= sizes.keys()
    assert sum(sizes.values()) < MAX_BYTES[name]
    card = (home / "model" / "README.md").read_text(encoding="utf-8")
    for word in ("RAVDESS", "CREMA-D, rebuilt audio", "non-commercial", "2024/1689", "benchmarks/shipped.py"):
        assert word in card
    for scores in RunFolder(home).metrics["parts"]["test"]["by_corpus"].values():
        assert (
            "| {uar:.3f} | {low:.3f} to {high:.3f} | {accuracy:.3f} |".format(**scores, **scores["uar_interval"])
            in card
        )
    speakers = json.loads((home / "split.json").read_text(encoding="utf-8"))["parts"]
    assert not any(name.startswith("tess") for part in speakers.values() for name in part["speakers"])


@pytest.mark.parametrize("name", SHIPPED_MODELS)
def test_both_of_its_files_give_the_same_probabilities(name: str) -> None:
    onnx, network = open_backend(shipped_file(name), threads=1), open_backend(HOMES[name] / "model", "cpu")
    assert onnx.info.classes == network.info.classes == SCHEMES["eight"]
    assert onnx.info.threshold == network.info.threshold
    assert onnx.info.threshold is not None
    for seconds in (0.3, 2.0, 9.0):
        wave = np.resize(synthetic_clip(0), int(seconds * audio.SAMPLE_RATE))[None]
        np.testing.assert_allclose(onnx.probabilities(wave), network.probabilities(wave), atol=1e-4)


def test_the_loudness_does_not_change_the_prediction_of_the_small_model() -> None:
    recognizer = EmotionRecognizer(SMALL, threads=1)
    for index in range(0, 12, 3):
        wave = synthetic_clip(index)
        plain, quiet = (recognizer((audio.SAMPLE_RATE, samples))[0] for samples in (wave, wave * np.float32(0.03)))
        assert plain["emotion"] == quiet["emotion"]
        assert plain["scores"] == pytest.approx(quiet["scores"], abs=0.01)


def test_silence_around_the_speech_changes_the_probabilities_of_the_small_model_little() -> None:
    recognizer = EmotionRecognizer(SMALL, threads=1)
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


def test_training_can_start_from_the_weights_of_the_small_model() -> None:
    extractor, model = build_model(SMALL, ("calm", "angry", "bored"), {}, {})
    logits = model(**extractor(synthetic_clip(0), return_tensors="pt")).logits
    assert logits.shape == (1, 3)
    name, weights = "networks.0.stem.weight", load_file(HOMES[SMALL] / "model" / "model.safetensors")
    assert torch.equal(model.state_dict()[name], weights[name].float())


@pytest.mark.slow
def test_the_recipe_of_the_small_model_trains_the_same_network_on_the_same_features(
    miniature_folder: Path, tmp_path: Path
) -> None:
    """On synthetic voices, for a few epochs: better than chance (0.125)."""
    run = _train("small", miniature_folder, tmp_path / "run", "--train.epochs=12", "--train.ema_decay=0.9")
    _assert_same_model(run, HOMES[SMALL])
    assert run.metrics["parts"]["test"]["uar"] > 0.15


@pytest.mark.slow
def test_the_recipes_of_the_default_model_train_the_same_network(miniature_folder: Path, tmp_path: Path) -> None:
    """With a tiny encoder in place of Whisper-base, for two steps."""
    model = write_tiny_backbone("whisper", tmp_path / "tiny", **TINY_WHISPER)
    settings = f"--model.name={model}", "--train.max_steps=2"
    tuned = _train("shipped_cremad", miniature_folder, tmp_path / "tuned", *settings)
    command = [sys.executable, ROOT / "benchmarks" / "ship.py", "average", tuned.path, "--out", tmp_path / "averaged"]
    subprocess.run(command, check=True)
    encoder = tmp_path / "averaged" / "model"
    weight = "encoder.layers.0.fc1.weight"
    before, after, averaged = (
        next(value for name, value in load_file(folder / "model.safetensors").items() if name.endswith(weight))
        for folder in (model, tuned.model, encoder)
    )
    assert torch.equal(averaged, (before + after) / 2)
    assert not torch.equal(averaged, after)
    assert speakers_seen_in_training(encoder) == speakers_seen_in_training(tuned.model)
    run = _train("shipped", miniature_folder, tmp_path / "run", f"--model.name={encoder}")
    _assert_same_model(run, HOMES[SHIPPED], sizes=False)


def _train(name: str, table: Path, out: Path, *settings: str) -> RunFolder:
    """Train a recipe on synthetic voices."""
    recipe = f"--config={ROOT / 'recipes' / f'{name}.yaml'}"
    common = (f"--data.prepared={table}", "--split.kind=speaker", "--train.batch_size=8", "--baselines=[]")
    assert train([recipe, *common, *settings, f"--out={out}"]) == 0
    return RunFolder(out)


def _assert_same_model(run: RunFolder, home: Path, sizes: bool = True) -> None:
    """Assert that weights have the same names, and the same shapes with `sizes`, and features the same settings."""
    trained, shipped = (load_file(folder / "model.safetensors") for folder in (run.model, home / "model"))
    assert trained.keys() == shipped.keys()
    if sizes:
        assert {name: value.shape for name, value in trained.items()} == {
            name: value.shape for name, value in shipped.items()
        }
    features = [json.loads((folder / "preprocessor_config.json").read_text()) for folder in (run.model, home / "model")]
    features[0].pop("auto_map", None)
    assert features[0] == features[1]
