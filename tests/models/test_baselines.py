"""The classic networks: padding never changes an answer, and a saved folder is a model for anyone with transformers."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, PreTrainedModel, pipeline

from ser_ft.models import MODELS
from ser_ft.models.features import SpectralFeatureExtractor
from ser_ft.models.registry import NETWORKS, build_model
from ser_ft.utils.errors import InputError
from tests.helpers.without_ser_ft import answers

CLASSES = ("neutral", "happy", "sad", "angry")
RATE = 16_000
# Channels that the branches of wide-cnn cannot share evenly, and one more that is as wide as what enters it; of
# compact-cnn so many gates that they are not all shut at its random start.
SMALL: dict[str, dict[str, Any]] = {
    "mfcc-cnn": {"channels": [8, 12]},
    "conv1d": {"channels": [16, 16], "dense_size": 16},
    "lstm": {"hidden_size": 12, "num_layers": 2, "frames_per_step": 4, "dense_size": 16},
    "plain-cnn": {"channels": [18, 18]},
    "residual-cnn": {"channels": [18, 18]},
    "wide-cnn": {"channels": [18, 18]},
    "compact-cnn": {"channels": 16, "num_blocks": 3, "squeeze_reduction": 1},
}
STILL = {"dropout": 0.0, "head_dropout": 0.0}
Made = tuple[SpectralFeatureExtractor, PreTrainedModel]
every = pytest.mark.parametrize("name", MODELS)


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=0.02 * (1 + seed % 5), size=samples).astype(np.float32)


def made(name: str, features: dict[str, Any] | None = None, **network: Any) -> Made:
    """A network, and its extractor with mean and scale as a run would have fitted them."""
    torch.manual_seed(0)
    extractor, model = build_model(name, CLASSES, features or {}, SMALL[name] | network)
    clips = [torch.from_numpy(noise(8000, seed)) for seed in range(8)]
    frames, _ = extractor.extract(torch.stack(clips), torch.tensor([8000] * 8))
    extractor.mean, extractor.scale = frames.mean(dim=(0, 1)).tolist(), (frames.std(dim=(0, 1)) + 1e-3).tolist()
    return extractor, model


def trained(one: Made, steps: int = 3) -> Made:
    """Take a few steps, so that weights and running statistics are none that a fresh model has."""
    extractor, model = one
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    batch = extractor([noise(6000 + 500 * seed, seed) for seed in range(8)], return_tensors="pt")
    model.train()
    for _ in range(steps):
        model(**batch, labels=torch.arange(8) % 4).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    model.eval()
    return one


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Made]]:
    """A trained network of each name, and the folder where it is saved."""
    home, known = tmp_path_factory.mktemp("models"), {}

    def get(name: str) -> tuple[Path, Made]:
        if name not in known:
            extractor, model = known[name] = trained(made(name, {"hop_length": 200}))
            model.save_pretrained(home / name)
            extractor.save_pretrained(home / name)
        return home / name, known[name]

    return get


def probabilities(one: Made, sound: np.ndarray) -> dict[str, float]:
    extractor, model = one
    with torch.inference_mode():
        shares = model(**extractor(sound, return_tensors="pt")).logits[0].softmax(-1).tolist()
    return dict(zip(CLASSES, shares, strict=True))


@every
def test_padding_does_not_change_the_answer(name: str) -> None:
    extractor, model = trained(made(name))
    clips = [noise(samples, seed) for seed, samples in enumerate((1, 100, 300, 2000, 4096, 7777, 30_000))]
    with torch.inference_mode():
        batch = extractor(clips, return_tensors="pt")
        assert batch["attention_mask"][0].sum() == 1, "the shortest clip is one frame"
        together = model(**batch).logits
        beyond = batch["attention_mask"] == 0
        batch["input_features"][beyond] = 123.0
        torch.testing.assert_close(model(**batch).logits, together, atol=1e-5, rtol=0)
        for clip, logits in zip(clips, together, strict=True):
            alone = extractor(clip, return_tensors="pt")
            torch.testing.assert_close(model(**alone).logits[0], logits, atol=1e-5, rtol=0)
            torch.testing.assert_close(model(alone["input_features"]).logits[0], logits, atol=1e-5, rtol=0)
    assert together.std(dim=0).min() > 1e-3, "the clips cannot be told apart: nothing is tested"


@every
@pytest.mark.parametrize("clips", [1, 2])
def test_shortest_clips_can_be_trained_on_and_asked_about(name: str, clips: int) -> None:
    extractor, model = made(name)
    batch = extractor([noise(1, seed) for seed in range(clips)], return_tensors="pt")
    model.train()
    model(**batch, labels=torch.arange(clips)).loss.backward()
    assert all(each.grad.isfinite().all() for each in model.parameters())
    assert torch.isfinite(model.eval()(**batch).logits).all()


@every
def test_gradient_reaches_every_parameter(name: str) -> None:
    extractor, model = made(name, **STILL)
    batch = extractor([noise(8000 + seed, seed) for seed in range(4)], return_tensors="pt")
    model.train()(**batch, labels=torch.arange(4)).loss.backward()
    still = [name for name, each in model.named_parameters() if each.grad is None or not each.grad.any()]
    assert still == []
    assert all(torch.isfinite(each.grad).all() for each in model.parameters())


@every
def test_loss_is_the_cross_entropy_of_the_labels(name: str) -> None:
    extractor, model = made(name)
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


@every
def test_it_learns_eight_clips_by_heart(name: str) -> None:
    """Else something between sound and loss is cut: a tone for each class."""
    extractor, model = made(name, **STILL)
    clips = [np.sin(np.arange(6000) * (0.05 + 0.1 * (seed % 4))).astype(np.float32) / 4 for seed in range(8)]
    noisy = [clip + noise(6000, seed) for seed, clip in enumerate(clips)]
    batch, labels = extractor(noisy, return_tensors="pt"), torch.arange(8) % 4
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.train()
    for _ in range(40):
        loss = model(**batch, labels=labels).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    assert loss < 0.1


@every
def test_auto_classes_read_what_was_saved(name: str, saved: Callable[[str], tuple[Path, Made]]) -> None:
    """With the extractor's fitted mean and scale; running statistics and all weights to the bit."""
    folder, (extractor, model) = saved(name)
    read = AutoModelForAudioClassification.from_pretrained(folder)
    assert type(read) is type(model)
    assert read.config.id2label == dict(enumerate(CLASSES))
    assert read.config.label2id == {label: place for place, label in enumerate(CLASSES)}
    assert {key: getattr(read.config, key) for key in SMALL[name]} == SMALL[name]
    ours, theirs = model.state_dict(), read.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(theirs[key], value) for key, value in ours.items())
    assert all(value == 3 for key, value in theirs.items() if key.endswith("num_batches_tracked"))
    found = AutoFeatureExtractor.from_pretrained(folder)
    assert found.to_dict() == extractor.to_dict()
    assert found.mean == extractor.mean
    assert len(found.scale) == model.config.feature_size == extractor.feature_size
    assert {file.suffix for file in folder.iterdir()} == {".json", ".safetensors", ".py"}


@pytest.mark.slow
def test_saved_folders_need_only_transformers(saved: Callable[[str], tuple[Path, Made]], tmp_path: Path) -> None:
    found = [saved(name) for name in MODELS]
    sounds = [noise(9000, 7), noise(300, 8), noise(40_000, 9)]
    said = answers([folder for folder, _ in found], sounds, tmp_path)
    for name, (_, one), answer in zip(MODELS, found, said, strict=True):
        for shares, sound in zip(answer, sounds, strict=True):
            assert shares == pytest.approx(probabilities(one, sound), abs=1e-5), name


@every
def test_beside_the_package_the_pipeline_asks_for_no_trust(
    name: str, saved: Callable[[str], tuple[Path, Made]]
) -> None:
    folder, one = saved(name)
    classify = pipeline("audio-classification", str(folder), top_k=None)
    found = {each["label"]: each["score"] for each in classify({"raw": noise(9000), "sampling_rate": RATE})}
    assert found == pytest.approx(probabilities(one, noise(9000)), abs=1e-5)
    assert len(classify({"raw": noise(9000), "sampling_rate": 8000})) == len(CLASSES)
    half = pipeline("audio-classification", str(folder), top_k=None, dtype=torch.bfloat16)
    rough = {each["label"]: each["score"] for each in half({"raw": noise(9000), "sampling_rate": RATE})}
    assert rough == pytest.approx(found, abs=0.03)


@every
@pytest.mark.parametrize(
    "classes", [CLASSES[::-1], ("calm", "fear", "disgust"), CLASSES], ids=["others", "fewer", "same"]
)
def test_a_saved_network_goes_on_with_other_classes(
    name: str, classes: tuple[str, ...], saved: Callable[[str], tuple[Path, Made]]
) -> None:
    """With a head of its own for them, as many or not: the old one tells other classes apart."""
    folder, (extractor, model) = saved(name)
    read, other = build_model(str(folder), classes, {}, {})
    assert read.to_dict() == extractor.to_dict()
    assert list(other.config.id2label.values()) == list(classes)
    ours, theirs = model.state_dict(), other.state_dict()
    same = {key for key in ours if ours[key].shape == theirs[key].shape and torch.equal(ours[key], theirs[key])}
    head = set() if classes == CLASSES else {"classifier.weight", "classifier.bias"}
    assert same == ours.keys() - head
    assert all(theirs[key].isfinite().all() and theirs[key].unique().numel() > 1 for key in head)


def test_what_the_networks_hear() -> None:
    """The 34 short-term descriptors of pyAudioAnalysis; stacked features; and MFCCs alone."""
    columns = {name: build_model(name, CLASSES, {}, {})[0].columns for name in MODELS}
    assert columns["mfcc-cnn"] == [f"mfcc_{place}" for place in range(1, 21)]
    assert columns["lstm"] == columns["conv1d"]
    assert len(columns["conv1d"]) == 34
    assert {"zcr", "energy-entropy", "rolloff", "mfcc_13", "chroma_G#", "chroma-deviation"} < set(columns["conv1d"])
    assert columns["plain-cnn"] == columns["residual-cnn"] == columns["wide-cnn"]
    assert {"rms", "mfcc_20", "mfcc-delta_20", "chroma_B", "log-mel_40"} < set(columns["plain-cnn"])


def test_compact_hears_levels_alone() -> None:
    assert build_model("compact-cnn", CLASSES, {}, {})[0].columns == [f"log-mel_{place}" for place in range(1, 81)]
    for features in ({"descriptors": ["mfcc"]}, {"descriptors": ["log-mel", "zcr"]}, {"normalize": "clip"}):
        with pytest.raises(InputError, match=r"descriptors \[log-mel\], normalize none"):
            build_model("compact-cnn", CLASSES, features, {})


@pytest.mark.parametrize("name", [name for name in MODELS if name != "compact-cnn"])
def test_build_takes_settings(name: str) -> None:
    features = {"descriptors": ["log-mel", "zcr"], "n_mels": 32, "normalize": "clip"}
    extractor, model = build_model(name, ["a", "b", "c"], features, {"dropout": 0})
    assert model.config.feature_size == extractor.feature_size == 33
    assert model(**extractor(noise(3000), return_tensors="pt")).logits.shape == (1, 3)


@pytest.mark.parametrize(
    ("name", "features", "network", "says"),
    [
        ("mfcc-rnn", {}, {}, "mfcc-cnn, conv1d, lstm"),
        ("mfcc-cnn", {"coefficients": 20}, {}, "'coefficients': the settings are descriptors, n_mfcc"),
        ("mfcc-cnn", {}, {"layers": 3}, "'layers': the settings are channels, kernel_size"),
        ("lstm", {}, {"channels": [3]}, "'channels': the settings are hidden_size, num_layers"),
        ("wide-cnn", {}, {"block_type": "plain"}, "no setting 'block_type'"),
        ("mfcc-cnn", {"sampling_rate": 8000}, {}, "no setting 'sampling_rate'"),
        ("mfcc-cnn", {"mean": [0.0] * 20}, {}, "no setting 'mean'"),
        ("conv1d", {}, {"feature_size": 13}, "no setting 'feature_size'"),
        ("conv1d", {"descriptors": ["plp"]}, {}, "zcr, energy"),
        ("conv1d", {"descriptors": []}, {}, "descriptors must be"),
        ("conv1d", {"n_mfcc": "many"}, {}, "model.feature_extractor.n_mfcc must be a value like 20, not 'many'"),
        ("conv1d", {"normalize": "yes"}, {}, "none, clip-mean, clip, training, speaker"),
        ("mfcc-cnn", {"hop_length": 0}, {}, "must be 1 or more"),
        ("mfcc-cnn", {}, {"channels": 64}, r"must be a value like \(16, 32, 64, 128\), not 64"),
        ("plain-cnn", {}, {"channels": []}, "channels must be"),
        ("plain-cnn", {}, {"channels": ["wide"]}, "plain-cnn: "),
        ("residual-cnn", {}, {"kernel_size": 4}, "odd"),
        ("wide-cnn", {}, {"branch_kernel_sizes": [3, 6]}, "odd"),
        ("lstm", {}, {"hidden_size": 0}, "hidden_size must be 1 or more"),
        ("lstm", {}, {"frames_per_step": True}, "must be a value like 8, not True"),
        ("lstm", {}, {"dropout": 1.5}, "dropout"),
        ("conv1d", {}, {"head_dropout": 1}, "head_dropout"),
    ],
)
def test_build_refuses_what_does_not_fit_and_names_what_does(
    name: str, features: dict[str, Any], network: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError, match=says) as refused:
        build_model(name, CLASSES, features, network)
    assert "\n" not in str(refused.value)


def test_a_saved_network_has_its_settings(saved: Callable[[str], tuple[Path, Made]]) -> None:
    folder, _ = saved("lstm")
    for features, network in (({"hop_length": 100}, {}), ({}, {"frames_per_step": 2})):
        with pytest.raises(
            InputError, match=r"cannot change the saved model .*: remove (hop_length|frames_per_step)"
        ) as refused:
            build_model(str(folder), CLASSES, features, network)
        assert "\n" not in str(refused.value)


def test_a_broken_folder_is_one_line(saved: Callable[[str], tuple[Path, Made]], tmp_path: Path) -> None:
    """An interrupted download, or a copy without its weights."""
    folder, _ = saved("conv1d")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(InputError, match="the saved model cannot be loaded") as refused:
        build_model(str(tmp_path), CLASSES, {}, {})
    assert "\n" not in str(refused.value)


@every
def test_default_config_is_one_that_works(name: str) -> None:
    network = NETWORKS[name]
    config = network.config()
    assert network.model(config)(torch.zeros(1, 4, config.feature_size)).logits.shape == (1, 2)
    documented = inspect.getdoc(network.config) or ""
    assert all(f"{key}:" in documented for key in SMALL[name])
