"""The MFCC-CNN: padding never changes its answer, and a saved folder is a model for anyone with transformers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, pipeline

from ser_ft.errors import InputError
from ser_ft.models.baselines import MfccCnnConfig, MfccCnnForAudioClassification
from ser_ft.models.features import SpectralFeatureExtractor
from ser_ft.models.registry import build

CLASSES = ("neutral", "happy", "sad", "angry")
RATE = 16_000

# Stands for a machine without ser_ft: wherever it is installed here, importing it fails.
STRANGER = """
import json, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "ser_ft":
            raise ModuleNotFoundError(f"no module named {name}")

sys.meta_path.insert(0, Absent())
import numpy as np
from transformers import pipeline

classify = pipeline("audio-classification", sys.argv[1], trust_remote_code=True, top_k=None)
sounds = np.load(sys.argv[2])
print(json.dumps([classify({"raw": sound, "sampling_rate": 16000}) for sound in sounds]))
"""


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=0.1, size=samples).astype(np.float32)


def made(**network: object) -> tuple[SpectralFeatureExtractor, MfccCnnForAudioClassification]:
    torch.manual_seed(0)
    return build("mfcc-cnn", CLASSES, {}, network)


def trained(model: MfccCnnForAudioClassification, extractor: SpectralFeatureExtractor, steps: int = 3) -> None:
    """Take a few steps, so that weights and running statistics are none that a fresh model has."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    batch = extractor([noise(6000 + 500 * seed, seed) for seed in range(8)], return_tensors="pt")
    model.train()
    for _ in range(steps):
        model(**batch, labels=torch.arange(8) % 4).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    model.eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[Path, SpectralFeatureExtractor, MfccCnnForAudioClassification]:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    features = {"feature_size": 20, "mels": 32, "normalise": "mean", "hop_length": 200}
    extractor, model = build("mfcc-cnn", CLASSES, features, {"channels": [16, 24], "kernel": 3})
    trained(model, extractor)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return folder, extractor, model


def probabilities(extractor: SpectralFeatureExtractor, model: torch.nn.Module, sound: np.ndarray) -> dict[str, float]:
    with torch.inference_mode():
        shares = model(**extractor(sound, return_tensors="pt")).logits[0].softmax(-1).tolist()
    return dict(zip(CLASSES, shares, strict=True))


def test_padding_does_not_change_the_answer() -> None:
    extractor, model = made()
    trained(model, extractor)
    clips = [noise(samples, seed) for seed, samples in enumerate((1, 100, 300, 2000, 4096, 7777, 30_000))]
    with torch.inference_mode():
        batch = extractor(clips, return_tensors="pt")
        together = model(**batch).logits
        beyond = batch["attention_mask"] == 0
        batch["input_features"][beyond] = 123.0
        torch.testing.assert_close(model(**batch).logits, together, atol=1e-5, rtol=0)
        for clip, logits in zip(clips, together, strict=True):
            alone = extractor(clip, return_tensors="pt")
            torch.testing.assert_close(model(**alone).logits[0], logits, atol=1e-5, rtol=0)
            torch.testing.assert_close(model(alone["input_features"]).logits[0], logits, atol=1e-5, rtol=0)
    assert together.std(dim=0).min() > 1e-3


def test_shortest_clips_can_be_trained_on_and_asked_about() -> None:
    extractor, model = made()
    batch = extractor([noise(1), noise(1, seed=1)], return_tensors="pt")
    model.train()
    model(**batch, labels=torch.tensor([0, 1])).loss.backward()
    assert torch.isfinite(model.eval()(**batch).logits).all()


def test_gradient_reaches_every_parameter() -> None:
    extractor, model = made(dropout=0.0, head_dropout=0.0)
    batch = extractor([noise(8000, seed) for seed in range(4)], return_tensors="pt")
    model(**batch, labels=torch.arange(4)).loss.backward()
    still = [name for name, each in model.named_parameters() if each.grad is None or not each.grad.abs().sum() > 0]
    # A batch normalisation takes the mean off: what a bias before it adds is lost.
    assert [name for name in still if not name.startswith("convolutions") or not name.endswith("bias")] == []
    assert all(torch.isfinite(each.grad).all() for each in model.parameters())


def test_loss_is_the_cross_entropy_of_the_labels() -> None:
    extractor, model = made()
    batch = extractor([noise(4000, seed) for seed in range(3)], return_tensors="pt")
    labels = torch.tensor([3, 0, 2])
    model.eval()
    found = model(**batch, labels=labels)
    torch.testing.assert_close(found.loss, torch.nn.functional.cross_entropy(found.logits, labels))
    assert model(**batch).loss is None
    loss, logits = model(**batch, labels=labels, return_dict=False)
    assert torch.equal(loss, found.loss)
    assert torch.equal(logits, found.logits)
    assert torch.equal(model(**batch, return_dict=False)[0], logits)


def test_auto_classes_read_what_was_saved(saved) -> None:
    folder, extractor, _ = saved
    read = AutoModelForAudioClassification.from_pretrained(folder)
    assert type(read) is MfccCnnForAudioClassification
    assert AutoFeatureExtractor.from_pretrained(folder).to_dict() == extractor.to_dict()
    assert read.config.id2label == dict(enumerate(CLASSES))
    assert read.config.label2id == {name: place for place, name in enumerate(CLASSES)}
    assert (read.config.channels, read.config.kernel, read.config.feature_size) == ([16, 24], 3, 20)


def test_weights_and_running_statistics_survive_saving(saved) -> None:
    folder, _, model = saved
    read = AutoModelForAudioClassification.from_pretrained(folder).state_dict()
    assert read.keys() == model.state_dict().keys()
    assert all(torch.equal(read[name], value) for name, value in model.state_dict().items())
    assert read["standardise.num_batches_tracked"] == 3
    assert read["standardise.running_mean"].abs().min() > 0


def test_weights_are_safetensors_only(saved) -> None:
    suffixes = {file.suffix for file in saved[0].iterdir()}
    assert suffixes == {".json", ".safetensors", ".py"}


def test_a_saved_folder_needs_only_transformers(saved, tmp_path: Path) -> None:
    folder, extractor, model = saved
    sounds = np.stack([noise(9000, seed) for seed in (7, 8)])
    np.save(tmp_path / "sounds.npy", sounds)
    run = [sys.executable, "-I", "-c", STRANGER, str(folder), str(tmp_path / "sounds.npy")]
    settings = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(run, env=os.environ | settings, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for answers, sound in zip(json.loads(done.stdout.splitlines()[-1]), sounds, strict=True):
        found = {answer["label"]: answer["score"] for answer in answers}
        assert found == pytest.approx(probabilities(extractor, model, sound), abs=1e-5)


def test_beside_the_package_the_pipeline_asks_for_no_trust(saved) -> None:
    folder, extractor, model = saved
    classify = pipeline("audio-classification", str(folder), top_k=None)
    found = {each["label"]: each["score"] for each in classify({"raw": noise(9000), "sampling_rate": RATE})}
    assert found == pytest.approx(probabilities(extractor, model, noise(9000)), abs=1e-5)
    assert len(classify({"raw": noise(9000), "sampling_rate": 8000})) == len(CLASSES)


def test_build_takes_settings() -> None:
    extractor, model = build(
        "mfcc-cnn",
        ["a", "b", "c"],
        {"kind": "log-mel", "feature_size": 32, "mels": 32},
        {"channels": [8], "dropout": 0},
    )
    assert model.config.feature_size == extractor.feature_size == 32
    assert model(**extractor(noise(3000), return_tensors="pt")).logits.shape == (1, 3)


@pytest.mark.parametrize(
    ("name", "features", "network", "says"),
    [
        ("mfcc-rnn", {}, {}, "mfcc-cnn"),
        ("mfcc-cnn", {"n_mfcc": 20}, {}, "'n_mfcc': it has kind, feature_size"),
        ("mfcc-cnn", {}, {"layers": 3}, "'layers': it has channels, kernel"),
        ("mfcc-cnn", {"sampling_rate": 8000}, {}, "no setting 'sampling_rate'"),
        ("mfcc-cnn", {}, {"feature_size": 13}, "no setting 'feature_size'"),
        ("mfcc-cnn", {"kind": "plp"}, {}, "mfcc, log-mel"),
        ("mfcc-cnn", {"feature_size": "many"}, {}, "model.features.feature_size is written like 20, not 'many'"),
        ("mfcc-cnn", {"hop_length": 0}, {}, "must be 1 or more"),
        ("mfcc-cnn", {}, {"channels": 64}, r"written like \(128, 128, 128, 128\), not 64"),
        ("mfcc-cnn", {}, {"channels": []}, "channels must be"),
        ("mfcc-cnn", {}, {"channels": ["wide"]}, "mfcc-cnn: "),
        ("mfcc-cnn", {}, {"kernel": 4}, "odd"),
        ("mfcc-cnn", {}, {"dropout": 1.5}, "dropout"),
    ],
)
def test_build_refuses_what_does_not_fit_and_names_what_does(name, features, network, says) -> None:
    with pytest.raises(InputError, match=says) as refused:
        build(name, CLASSES, features, network)
    assert "\n" not in str(refused.value)


def test_default_config_is_one_that_works() -> None:
    config = MfccCnnConfig()
    assert MfccCnnForAudioClassification(config)(torch.zeros(1, 4, config.feature_size)).logits.shape == (1, 2)
