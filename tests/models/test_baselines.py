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
from tests.helpers.sound_files import noise
from tests.helpers.without_ser_ft import answers

CLASSES = ("neutral", "happy", "sad", "angry")
RATE = 16_000
# wide-cnn: channels that its branches cannot divide evenly. compact-cnn: without reduction, because its few gates could
# all be closed at random initialization.
SMALL: dict[str, dict[str, Any]] = {
    "mfcc-cnn": {"channels": [8, 12]},
    "conv1d": {"channels": [16, 16], "dense_size": 16},
    "lstm": {"hidden_size": 12, "num_layers": 2, "frames_per_step": 4, "dense_size": 16},
    "plain-cnn": {"channels": [18, 18]},
    "residual-cnn": {"channels": [18, 18]},
    "wide-cnn": {"channels": [18, 18]},
    "compact-cnn": {"channels": 16, "num_blocks": 3, "squeeze_reduction": 1},
}
NO_DROPOUT = {"dropout": 0.0, "head_dropout": 0.0}
OwnModel = tuple[SpectralFeatureExtractor, PreTrainedModel]
all_networks = pytest.mark.parametrize("name", MODELS)


def create(name: str, extractor_settings: dict[str, Any] | None = None, **config_overrides: Any) -> OwnModel:
    """A network and its extractor with fitted mean and scale."""
    torch.manual_seed(0)
    extractor, model = build_model(name, CLASSES, extractor_settings or {}, SMALL[name] | config_overrides)
    clips = [torch.from_numpy(noise(8000, seed)) for seed in range(8)]
    frames, _ = extractor.extract(torch.stack(clips), torch.tensor([8000] * 8))
    extractor.mean, extractor.scale = frames.mean(dim=(0, 1)).tolist(), (frames.std(dim=(0, 1)) + 1e-3).tolist()
    return extractor, model


def trained(own_model: OwnModel, steps: int = 3) -> OwnModel:
    """Train a few steps, so that weights and running statistics differ from those of a new model."""
    extractor, model = own_model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    batch = extractor([noise(6000 + 500 * seed, seed) for seed in range(8)], return_tensors="pt")
    model.train()
    for _ in range(steps):
        model(**batch, labels=torch.arange(8) % 4).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    return own_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, OwnModel]]:
    """Returns the folder and the saved network of a name."""
    home, cached = tmp_path_factory.mktemp("models"), {}

    def get(name: str) -> tuple[Path, OwnModel]:
        if name not in cached:
            extractor, model = cached[name] = trained(create(name, {"hop_length": 200}))
            model.save_pretrained(home / name)
            extractor.save_pretrained(home / name)
        return home / name, cached[name]

    return get


def probabilities(own_model: OwnModel, sound: np.ndarray) -> dict[str, float]:
    extractor, model = own_model
    with torch.inference_mode():
        scores = model(**extractor(sound, return_tensors="pt")).logits[0].softmax(-1).tolist()
    return dict(zip(CLASSES, scores, strict=True))


@all_networks
def test_padding_does_not_change_predictions(name: str) -> None:
    extractor, model = trained(create(name))
    clips = [noise(samples, seed) for seed, samples in enumerate((1, 100, 300, 2000, 4096, 7777, 30_000))]
    with torch.inference_mode():
        batch = extractor(clips, return_tensors="pt")
        assert batch["attention_mask"][0].sum() == 1, "the shortest clip has one frame"
        batch_logits = model(**batch).logits
        padding = batch["attention_mask"] == 0
        batch["input_features"][padding] = 123.0
        torch.testing.assert_close(model(**batch).logits, batch_logits, atol=1e-5, rtol=0)
        for clip, logits in zip(clips, batch_logits, strict=True):
            alone = extractor(clip, return_tensors="pt")
            torch.testing.assert_close(model(**alone).logits[0], logits, atol=1e-5, rtol=0)
            torch.testing.assert_close(model(alone["input_features"]).logits[0], logits, atol=1e-5, rtol=0)
    assert batch_logits.std(dim=0).min() > 1e-3, "the predictions do not differ: nothing is tested"


@all_networks
@pytest.mark.parametrize("clips", [1, 2])
def test_shortest_clips_can_be_trained_on_and_classified(name: str, clips: int) -> None:
    extractor, model = create(name)
    batch = extractor([noise(1, seed) for seed in range(clips)], return_tensors="pt")
    model.train()
    model(**batch, labels=torch.arange(clips)).loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert torch.isfinite(model.eval()(**batch).logits).all()


@all_networks
def test_gradient_reaches_every_parameter(name: str) -> None:
    extractor, model = create(name, **NO_DROPOUT)
    batch = extractor([noise(8000 + seed, seed) for seed in range(4)], return_tensors="pt")
    model.train()(**batch, labels=torch.arange(4)).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
        assert parameter.grad.isfinite().all(), name


@all_networks
def test_loss_is_the_cross_entropy_of_the_labels(name: str) -> None:
    extractor, model = create(name)
    batch = extractor([noise(4000, seed) for seed in range(3)], return_tensors="pt")
    labels = torch.tensor([3, 0, 2])
    model.eval()
    outputs = model(**batch, labels=labels)
    torch.testing.assert_close(outputs.loss, torch.nn.functional.cross_entropy(outputs.logits, labels))
    assert model(**batch).loss is None
    loss, logits = model(**batch, labels=labels, return_dict=False)
    assert torch.equal(loss, outputs.loss)
    assert torch.equal(logits, outputs.logits)


@all_networks
def test_it_can_overfit_eight_clips(name: str) -> None:
    """A tone for each class: fails if a part of the network is disconnected."""
    extractor, model = create(name, **NO_DROPOUT)
    clips = [np.sin(np.arange(6000) * (0.05 + 0.1 * (seed % 4))).astype(np.float32) / 4 for seed in range(8)]
    noisy = [clip + noise(6000, seed) for seed, clip in enumerate(clips)]
    batch, labels = extractor(noisy, return_tensors="pt"), torch.arange(8) % 4
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.train()
    for _ in range(40):
        loss = model(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.1


@all_networks
def test_auto_classes_load_a_saved_network(name: str, saved: Callable[[str], tuple[Path, OwnModel]]) -> None:
    """All weights and running statistics are equal, and the extractor keeps its fitted mean and scale."""
    folder, (extractor, model) = saved(name)
    loaded = AutoModelForAudioClassification.from_pretrained(folder)
    assert type(loaded) is type(model)
    assert loaded.config.id2label == dict(enumerate(CLASSES))
    assert loaded.config.label2id == {label: number for number, label in enumerate(CLASSES)}
    assert {key: getattr(loaded.config, key) for key in SMALL[name]} == SMALL[name]
    weights, loaded_weights = model.state_dict(), loaded.state_dict()
    assert weights.keys() == loaded_weights.keys()
    assert all(torch.equal(loaded_weights[key], value) for key, value in weights.items())
    assert all(value == 3 for key, value in loaded_weights.items() if key.endswith("num_batches_tracked"))
    outputs = AutoFeatureExtractor.from_pretrained(folder)
    assert outputs.to_dict() == extractor.to_dict()
    assert outputs.mean == extractor.mean
    assert len(outputs.scale) == model.config.feature_size == extractor.feature_size
    assert {file.suffix for file in folder.iterdir()} == {".json", ".safetensors", ".py"}


@pytest.mark.slow
def test_saved_folders_need_only_transformers(saved: Callable[[str], tuple[Path, OwnModel]], tmp_path: Path) -> None:
    outputs = [saved(name) for name in MODELS]
    sounds = [noise(9000, 7), noise(300, 8), noise(40_000, 9)]
    predictions = answers([folder for folder, _ in outputs], sounds, tmp_path)
    for name, (_, own_model), prediction in zip(MODELS, outputs, predictions, strict=True):
        for scores, sound in zip(prediction, sounds, strict=True):
            assert scores == pytest.approx(probabilities(own_model, sound), abs=1e-5), name


@all_networks
def test_with_ser_ft_installed_the_pipeline_needs_no_remote_code(
    name: str, saved: Callable[[str], tuple[Path, OwnModel]]
) -> None:
    folder, own_model = saved(name)
    classify = pipeline("audio-classification", str(folder), top_k=None)
    outputs = {answer["label"]: answer["score"] for answer in classify({"raw": noise(9000), "sampling_rate": RATE})}
    assert outputs == pytest.approx(probabilities(own_model, noise(9000)), abs=1e-5)
    assert len(classify({"raw": noise(9000), "sampling_rate": 8000})) == len(CLASSES)
    half = pipeline("audio-classification", str(folder), top_k=None, dtype=torch.bfloat16)
    half_scores = {answer["label"]: answer["score"] for answer in half({"raw": noise(9000), "sampling_rate": RATE})}
    assert half_scores == pytest.approx(outputs, abs=0.03)


@all_networks
@pytest.mark.parametrize(
    "classes", [CLASSES[::-1], ("calm", "fear", "disgust"), CLASSES], ids=["others", "fewer", "same"]
)
def test_a_saved_network_can_be_trained_for_other_classes(
    name: str, classes: tuple[str, ...], saved: Callable[[str], tuple[Path, OwnModel]]
) -> None:
    """Other classes get a new head, even if their number is the same."""
    folder, (extractor, model) = saved(name)
    loaded, other_model = build_model(str(folder), classes, {}, {})
    assert loaded.to_dict() == extractor.to_dict()
    assert list(other_model.config.id2label.values()) == list(classes)
    weights, loaded_weights = model.state_dict(), other_model.state_dict()
    same = {key for key, value in weights.items() if torch.equal(value, loaded_weights[key])}
    head = set() if classes == CLASSES else {"classifier.weight", "classifier.bias"}
    assert same == weights.keys() - head
    assert all(loaded_weights[key].isfinite().all() and loaded_weights[key].unique().numel() > 1 for key in head)


def test_default_descriptors_of_each_network() -> None:
    """The 34 short-term descriptors of pyAudioAnalysis; stacked features; and MFCCs alone."""
    columns = {name: build_model(name, CLASSES, {}, {})[0].columns for name in MODELS}
    assert columns["mfcc-cnn"] == [f"mfcc_{number}" for number in range(1, 21)]
    assert columns["lstm"] == columns["conv1d"]
    assert len(columns["conv1d"]) == 34
    assert {"zcr", "energy-entropy", "rolloff", "mfcc_13", "chroma_G#", "chroma-deviation"} < set(columns["conv1d"])
    assert columns["plain-cnn"] == columns["residual-cnn"] == columns["wide-cnn"]
    assert {"rms", "mfcc_20", "mfcc-delta_20", "chroma_B", "log-mel_40"} < set(columns["plain-cnn"])


def test_compact_cnn_takes_log_mel_only() -> None:
    assert build_model("compact-cnn", CLASSES, {}, {})[0].columns == [f"log-mel_{number}" for number in range(1, 81)]
    for extractor_settings in ({"descriptors": ["mfcc"]}, {"descriptors": ["log-mel", "zcr"]}, {"normalize": "clip"}):
        with pytest.raises(InputError, match=r"descriptors \[log-mel\], normalize none"):
            build_model("compact-cnn", CLASSES, extractor_settings, {})


@pytest.mark.parametrize("name", [name for name in MODELS if name != "compact-cnn"])
def test_settings_change_extractor_and_network(name: str) -> None:
    extractor_settings = {"descriptors": ["log-mel", "zcr"], "n_mels": 32, "normalize": "clip"}
    extractor, model = build_model(name, ["a", "b", "c"], extractor_settings, {"dropout": 0})
    assert model.config.feature_size == extractor.feature_size == 33
    assert model(**extractor(noise(3000), return_tensors="pt")).logits.shape == (1, 3)


@pytest.mark.parametrize(
    ("name", "extractor_settings", "config_overrides", "message"),
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
def test_wrong_settings_are_refused_in_one_line(
    name: str, extractor_settings: dict[str, Any], config_overrides: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        build_model(name, CLASSES, extractor_settings, config_overrides)
    assert "\n" not in str(error.value)


def test_settings_of_a_saved_network_cannot_be_changed(saved: Callable[[str], tuple[Path, OwnModel]]) -> None:
    folder, _ = saved("lstm")
    for extractor_settings, config_overrides in (({"hop_length": 100}, {}), ({}, {"frames_per_step": 2})):
        with pytest.raises(InputError, match=r"cannot change the saved model .*: remove (hop_length|frames_per_step)$"):
            build_model(str(folder), CLASSES, extractor_settings, config_overrides)


def test_a_folder_without_weights_is_refused_in_one_line(
    saved: Callable[[str], tuple[Path, OwnModel]], tmp_path: Path
) -> None:
    folder, _ = saved("conv1d")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(InputError, match=r"preprocessor_config\.json") as error:
        build_model(str(tmp_path), CLASSES, {}, {})
    assert "\n" not in str(error.value)


@all_networks
def test_the_default_config_works_and_is_documented(name: str) -> None:
    defaults = NETWORKS[name]
    config = defaults.config()
    assert defaults.model(config)(torch.zeros(1, 4, config.feature_size)).logits.shape == (1, 2)
    documented = inspect.getdoc(defaults.config) or ""
    assert all(f"{key}:" in documented for key in SMALL[name])
