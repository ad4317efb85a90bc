"""Image backbones on spectrograms: any length, their own weights, and a saved folder that anyone can load."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, pipeline

from ser_ft.models import model_kind
from ser_ft.models.features import SpectralFeatureExtractor
from ser_ft.models.registry import build_model
from ser_ft.models.spectrogram import (
    ALEXNET,
    SpectrogramConfig,
    SpectrogramForAudioClassification,
    make_alexnet,
    parameters_by_stage,
)
from ser_ft.utils.errors import InputError
from tests.helpers.without_ser_ft import answers

CLASSES = ("neutral", "happy", "sad", "angry")
# Of each kind the smallest that timm has; the last blurs with filters that are no weights.
RESNET, EFFICIENT, CONVNEXT = "timm/test_resnet.r160_in1k", "timm/test_efficientnet.r160_in1k", "timm/test_convnext"
DENSE, VGG, BLUR = "timm/densenet121.tv_in1k", "timm/vgg11_bn.tv_in1k", "timm/resnetblur18"
SMALLEST = (RESNET, EFFICIENT, CONVNEXT, ALEXNET)
# Frames: one; less than a whole image; just one and just more; more than a patch of 96, and by one.
LENGTHS = (1, 5, 63, 64, 65, 97, 200, 129)
Made = tuple[SpectralFeatureExtractor, SpectrogramForAudioClassification]


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=0.02 * (1 + seed % 5), size=samples).astype(np.float32)


def made(name: str, features: dict[str, Any] | None = None, **network: Any) -> Made:
    """A network with random weights and running statistics of its own, and its extractor, as a run had fitted it."""
    torch.manual_seed(0)
    extractor, model = build_model(name, CLASSES, features or {}, network, pretrained=False)
    extractor.mean, extractor.scale = [-7.0] * extractor.n_mels, [2.0] * extractor.n_mels
    assert isinstance(model, SpectrogramForAudioClassification)
    model.train()
    with torch.no_grad():
        for each in model.modules():
            if isinstance(each, torch.nn.BatchNorm2d):
                each.momentum = None
                torch.nn.init.uniform_(each.weight, 0.5, 1.5)  # timm begins some with zeros
        model(spectrograms(16, 96))
    return extractor, model.eval()


def spectrograms(clips: int, frames: int, mels: int = 64) -> torch.Tensor:
    """Noise in bands of its own in each clip, as if standardised."""
    torch.manual_seed(1)
    return torch.randn(clips, 1, mels) + torch.randn(clips, frames, mels)


def mask_of(lengths: torch.Tensor, frames: int) -> torch.Tensor:
    return (torch.arange(frames) < lengths[:, None]).long()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Made]]:
    """A network of each name, and the folder where it is saved."""
    home, known = tmp_path_factory.mktemp("models"), {}

    def get(name: str) -> tuple[Path, Made]:
        folder = home / name.replace("/", "-")
        if name not in known:
            extractor, model = known[name] = made(name)
            model.save_pretrained(folder)
            extractor.save_pretrained(folder)
        return folder, known[name]

    return get


@pytest.mark.parametrize("patch", [None, 96])
@pytest.mark.parametrize("name", [*SMALLEST, BLUR, pytest.param(DENSE, marks=pytest.mark.slow)])
def test_padding_does_not_change_the_answer(name: str, patch: int | None) -> None:
    """Nor what lies in it, nor the company; squeeze and excitation sees the whole image, padding too."""
    _, model = made(name, patch_frames=patch)
    lengths = torch.tensor(LENGTHS)
    features = spectrograms(len(lengths), 200)
    mask = mask_of(lengths, 200)
    with torch.inference_mode():
        together = model(features, mask).logits
        features[mask == 0] = 123.0
        torch.testing.assert_close(model(features, mask).logits, together, atol=1e-5, rtol=0)
        for clip, length, logits in zip(features, LENGTHS, together, strict=True):
            torch.testing.assert_close(model(clip[None, :length]).logits[0], logits, atol=1e-5, rtol=0)
        few = [2, 5]
        torch.testing.assert_close(model(features[few, :97], mask[few, :97]).logits, together[few], atol=1e-5, rtol=0)
    assert together.std(dim=0).min() > 1e-3, "the clips cannot be told apart: nothing is tested"


@pytest.mark.parametrize("name", SMALLEST)
def test_every_frame_of_a_clip_counts(name: str) -> None:
    """A patch, or a map's last frame, that is left out would cost the end of each clip."""
    _, model = made(name)
    for patch in (None, 64):
        model.config.patch_frames = patch
        features = spectrograms(1, 130)
        with torch.inference_mode():
            before = model(features).logits
            for start in (0, 40, 90):
                other = features.clone()
                other[:, start : start + 40] += 3.0
                assert (model(other).logits - before).abs().max() > 1e-4, (patch, start)


def test_patches_are_seen_alone_and_weigh_what_they_hold() -> None:
    _, model = made(RESNET, patch_frames=96)
    features = spectrograms(1, 240)
    with torch.inference_mode():
        whole = model.encode(features, torch.tensor([240]))
        parts = [
            model.encode(features[:, start : start + 96], torch.tensor([size]))
            for start, size in ((0, 96), (96, 96), (192, 48))
        ]
    torch.testing.assert_close(whole, (2 * parts[0] + 2 * parts[1] + parts[2]) / 5, atol=1e-5, rtol=0)


@pytest.mark.parametrize("patch", [None, 96])
def test_half_precision_answers_the_same(patch: int | None) -> None:
    """In a model that was loaded so, and in a step of training that is cast as it goes."""
    _, model = made(RESNET, patch_frames=patch)
    features, mask = spectrograms(3, 200), mask_of(torch.tensor([200, 60, 130]), 200)
    with torch.no_grad():
        expected = model(features, mask).logits
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(model(features, mask).logits.float(), expected, atol=0.03, rtol=0)
        found = model.to(torch.bfloat16)(features.to(torch.bfloat16), mask).logits
    torch.testing.assert_close(found.float(), expected, atol=0.03, rtol=0)


@pytest.mark.parametrize("n_mels", [23, 64, 80])
def test_any_number_of_mel_bands_will_do(n_mels: int) -> None:
    extractor, model = made(RESNET, {"n_mels": n_mels})
    assert model.config.feature_size == extractor.feature_size == n_mels
    assert model(**extractor([noise(4000), noise(9000)], return_tensors="pt")).logits.isfinite().all()


@pytest.mark.parametrize("name", SMALLEST)
def test_short_clips_can_be_trained_on(name: str) -> None:
    extractor, model = made(name)
    model.train()
    batch = extractor([noise(1), noise(20, seed=1)], return_tensors="pt")
    model(**batch, labels=torch.tensor([0, 1])).loss.backward()
    assert all(each.grad.isfinite().all() for each in model.parameters())


@pytest.mark.parametrize("patch", [None, 96])
@pytest.mark.parametrize("name", SMALLEST)
def test_gradient_reaches_every_parameter(name: str, patch: int | None) -> None:
    _, model = made(name, patch_frames=patch, head_dropout=0.0)
    lengths = torch.tensor([200, 150, 90, 120])
    features = spectrograms(4, 200)
    model.train()
    model(features, mask_of(lengths, 200), labels=torch.arange(4)).loss.backward()
    assert [key for key, each in model.named_parameters() if each.grad is None or not each.grad.any()] == []


STAGES = {
    "timm/vgg11_bn.tv_in1k": 5,
    "timm/vgg16_bn.tv_in1k": 5,
    "timm/resnet50.a1_in1k": 5,
    "timm/densenet121.tv_in1k": 5,
    "timm/efficientnet_b0.ra_in1k": 5,
    "timm/convnext_tiny.fb_in1k": 4,
    ALEXNET: 3,
    RESNET: 5,
    EFFICIENT: 5,
    CONVNEXT: 4,
}


@pytest.mark.parametrize("name", STAGES)
def test_every_weight_is_of_one_stage(name: str) -> None:
    """Else a weight would be trained that is frozen, or one would never be, or be in two groups of the optimiser."""
    with torch.device("meta"):
        backbone = make_alexnet() if name == ALEXNET else build_on_meta(name)
    stages = parameters_by_stage(backbone)
    members = [id(each) for stage in stages for each in stage]
    assert len(members) == len(set(members))
    assert set(members) == {id(each) for each in backbone.parameters()}
    assert len(stages) == STAGES[name]
    places = {
        key: place
        for key, each in backbone.named_parameters()
        for place, stage in enumerate(stages)
        if any(each is one for one in stage)
    }
    order = list(places.values())
    assert order[0] == 0
    assert order[-1] == len(stages) - 1
    assert order == sorted(order), "a weight stands in a stage below what comes before it"


def build_on_meta(name: str) -> torch.nn.Module:
    return timm.create_model(name.removeprefix("timm/"), in_chans=1, features_only=True, out_indices=(-1,))


def test_a_transformer_for_any_size_has_its_positions_in_the_lowest_stage() -> None:
    """They are no module's own forward: left out, they would be trained whatever is frozen."""
    _, model = made("timm/test_vit")
    members = {id(each) for stage in parameters_by_stage(model.backbone) for each in stage}
    assert members == {id(each) for each in model.backbone.parameters()}


@pytest.mark.parametrize("name", [*SMALLEST, BLUR, pytest.param(DENSE, marks=pytest.mark.slow)])
def test_auto_classes_read_what_was_saved(name: str, saved: Callable[[str], tuple[Path, Made]]) -> None:
    """Filters that are no weights would come back as whatever the memory held."""
    folder, (extractor, model) = saved(name)
    read = AutoModelForAudioClassification.from_pretrained(folder)
    assert type(read) is SpectrogramForAudioClassification
    assert read.config.id2label == dict(enumerate(CLASSES))
    ours, theirs = model.state_dict(), read.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(theirs[key], value) for key, value in ours.items())
    assert {key for key, _ in model.named_buffers()} <= theirs.keys()
    found = AutoFeatureExtractor.from_pretrained(folder)
    assert found.to_dict() == extractor.to_dict()
    assert {file.suffix for file in folder.iterdir()} == {".json", ".safetensors", ".py"}
    features = spectrograms(2, 70)
    with torch.inference_mode():
        assert torch.equal(read.eval()(features).logits, model(features).logits)


@pytest.mark.slow
def test_saved_folders_need_only_transformers_and_timm(
    saved: Callable[[str], tuple[Path, Made]], tmp_path: Path
) -> None:
    names = (*SMALLEST, BLUR)
    found = [saved(name) for name in names]
    sounds = [noise(9000, 7), noise(300, 8), noise(40_000, 9)]
    said = answers([folder for folder, _ in found], sounds, tmp_path)
    for name, (folder, (extractor, model)), answer in zip(names, found, said, strict=True):
        classify = pipeline("audio-classification", str(folder), top_k=None)
        for shares, sound in zip(answer, sounds, strict=True):
            with torch.inference_mode():
                ours = model(**extractor(sound, return_tensors="pt")).logits[0].softmax(-1).tolist()
            assert shares == pytest.approx(dict(zip(CLASSES, ours, strict=True)), abs=1e-5), name
            beside = {each["label"]: each["score"] for each in classify({"raw": sound, "sampling_rate": 16_000})}
            assert beside == pytest.approx(shares, abs=1e-5), name


def test_a_saved_network_goes_on_with_other_classes(saved: Callable[[str], tuple[Path, Made]]) -> None:
    folder, (extractor, model) = saved(RESNET)
    assert model_kind(str(folder)) == "image"
    for classes in (CLASSES[::-1], ("calm", "fear", "disgust"), CLASSES):
        read, other = build_model(str(folder), classes, {}, {})
        assert read.to_dict() == extractor.to_dict()
        assert list(other.config.id2label.values()) == list(classes)
        assert other.classifier.weight.isfinite().all()
        kept = torch.equal(other.classifier.weight[:3], model.classifier.weight[:3])
        assert kept == (classes == CLASSES)
        ours, theirs = model.backbone.state_dict(), other.backbone.state_dict()
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


@pytest.mark.parametrize(
    ("name", "features", "network", "says"),
    [
        ("timm/vgg99", {}, {}, "timm has no such model; see timm.list_models"),
        ("timm/test_resnet.nonsense", {}, {}, "Invalid pretrained tag"),
        ("timm/vit_tiny_patch16_224", {}, {}, "does not take images of any size: use a convolutional network"),
        ("timm/mixer_s32_224", {}, {}, "does not take images of any size"),
        ("torchvision/vgg16", {}, {}, "torchvision/alexnet is the only torchvision model"),
        (RESNET, {"descriptors": ["mfcc"]}, {}, r"model.feature_extractor.descriptors must be \[log-mel\]"),
        (RESNET, {"descriptors": ["log-mel", "zcr"]}, {}, r"model.feature_extractor.descriptors must be \[log-mel\]"),
        (RESNET, {}, {"backbone": "vgg16"}, "no setting 'backbone': the settings are patch_frames, head_dropout"),
        (RESNET, {}, {"feature_size": 3}, "no setting 'feature_size'"),
        (RESNET, {}, {"patch_frames": 0}, "patch_frames must be 1 or more"),
        (RESNET, {}, {"patch_frames": 9.5}, "patch_frames must be a value like None, not 9.5"),
        (RESNET, {}, {"head_dropout": 2.0}, "head_dropout must be at least 0 and below 1"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    name: str, features: dict[str, Any], network: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError, match=says) as refused:
        build_model(name, CLASSES, features, network, pretrained=False)
    assert "\n" not in str(refused.value)


def test_names_say_what_they_stand_for(tmp_path: Path) -> None:
    kinds = {"mfcc-cnn": "own", "lstm": "own", "timm/vgg16": "image", ALEXNET: "image", "facebook/hubert": "speech"}
    assert {name: model_kind(name) for name in kinds} == kinds
    said = ({"model_type": "hubert"}, {"model_type": "ser_ft_lstm"}, {"architecture": "resnet18", "pretrained_cfg": {}})
    for config, kind in zip(said, ("speech", "own", "image"), strict=True):
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert model_kind(str(tmp_path)) == kind


def test_a_config_names_its_own_default() -> None:
    config = SpectrogramConfig(backbone="test_resnet")
    assert SpectrogramForAudioClassification(config)(torch.zeros(1, 4, config.feature_size)).logits.shape == (1, 2)
