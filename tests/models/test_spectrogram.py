"""Image backbones on spectrograms: clips of any length, padding, stages, saving and loading."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from tests.helpers.sound_files import noise
from tests.helpers.without_ser_ft import answers

CLASSES = ("neutral", "happy", "sad", "angry")
# The smallest networks of each kind in timm; the last has blur filters that are buffers.
RESNET, EFFICIENT, CONVNEXT = "timm/test_resnet.r160_in1k", "timm/test_efficientnet.r160_in1k", "timm/test_convnext"
DENSE, VGG, BLUR = "timm/densenet121.tv_in1k", "timm/vgg11_bn.tv_in1k", "timm/resnetblur18"
SMALLEST = (RESNET, EFFICIENT, CONVNEXT, ALEXNET)
# Frames: one; fewer than an image; one image, one less and one more; more than a patch of 96, and one more.
LENGTHS = (1, 5, 63, 64, 65, 97, 200, 129)
ImageModel = tuple[SpectralFeatureExtractor, SpectrogramForAudioClassification]


def create(name: str, features: dict[str, Any] | None = None, **network: Any) -> ImageModel:
    """A network with random weights and running statistics, and its extractor with fitted mean and scale."""
    torch.manual_seed(0)
    extractor, model = build_model(name, CLASSES, features or {}, network, pretrained=False)
    extractor.mean, extractor.scale = [-7.0] * extractor.n_mels, [2.0] * extractor.n_mels
    assert isinstance(model, SpectrogramForAudioClassification)
    model.train()
    with torch.no_grad():
        for parameter in model.modules():
            if isinstance(parameter, torch.nn.BatchNorm2d):
                parameter.momentum = None
                torch.nn.init.uniform_(parameter.weight, 0.5, 1.5)  # timm initializes some with zeros
        model(spectrograms(16, 96))
    return extractor, model.eval()


def spectrograms(clips: int, frames: int, mels: int = 64) -> torch.Tensor:
    """Noise with its own spectrum in each clip, as if standardized."""
    torch.manual_seed(1)
    return torch.randn(clips, 1, mels) + torch.randn(clips, frames, mels)


def mask_of(lengths: torch.Tensor, frames: int) -> torch.Tensor:
    return (torch.arange(frames) < lengths[:, None]).long()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, ImageModel]]:
    """Returns the folder and the saved network of a name."""
    root, cached = tmp_path_factory.mktemp("models"), {}

    def get(name: str) -> tuple[Path, ImageModel]:
        folder = root / name.replace("/", "-")
        if name not in cached:
            extractor, model = cached[name] = create(name)
            model.save_pretrained(folder)
            extractor.save_pretrained(folder)
        return folder, cached[name]

    return get


@pytest.mark.parametrize("patch", [None, 96])
@pytest.mark.parametrize("name", [*SMALLEST, BLUR, pytest.param(DENSE, marks=pytest.mark.slow)])
def test_padding_does_not_change_predictions(name: str, patch: int | None) -> None:
    """Neither do its values or other clips, in spite of squeeze and excitation, which pools the whole image."""
    _, model = create(name, patch_frames=patch)
    lengths = torch.tensor(LENGTHS)
    features = spectrograms(len(lengths), 200)
    mask = mask_of(lengths, 200)
    with torch.inference_mode():
        batch_logits = model(features, mask).logits
        features[mask == 0] = 123.0
        torch.testing.assert_close(model(features, mask).logits, batch_logits, atol=1e-5, rtol=0)
        for clip, length, logits in zip(features, LENGTHS, batch_logits, strict=True):
            torch.testing.assert_close(model(clip[None, :length]).logits[0], logits, atol=1e-5, rtol=0)
        rows = [2, 5]
        torch.testing.assert_close(
            model(features[rows, :97], mask[rows, :97]).logits, batch_logits[rows], atol=1e-5, rtol=0
        )
    assert batch_logits.std(dim=0).min() > 1e-3, "the predictions do not differ: nothing is tested"


@pytest.mark.parametrize("name", SMALLEST)
def test_every_frame_of_a_clip_changes_the_prediction(name: str) -> None:
    """The last patch and the last frame of the feature map are not lost."""
    _, model = create(name)
    for patch in (None, 64):
        model.config.patch_frames = patch
        features = spectrograms(1, 130)
        with torch.inference_mode():
            before = model(features).logits
            for start in (0, 40, 90):
                changed = features.clone()
                changed[:, start : start + 40] += 3.0
                assert (model(changed).logits - before).abs().max() > 1e-4, (patch, start)


def test_patches_are_separate_and_weighted_by_their_frames() -> None:
    _, model = create(RESNET, patch_frames=96)
    features = spectrograms(1, 240)
    with torch.inference_mode():
        vector = model.encode(features, torch.tensor([240]))
        parts = [
            model.encode(features[:, start : start + 96], torch.tensor([size]))
            for start, size in ((0, 96), (96, 96), (192, 48))
        ]
    torch.testing.assert_close(vector, (2 * parts[0] + 2 * parts[1] + parts[2]) / 5, atol=1e-5, rtol=0)


@pytest.mark.parametrize("patch", [None, 96])
def test_half_precision_gives_close_logits(patch: int | None) -> None:
    _, model = create(RESNET, patch_frames=patch)
    features, mask = spectrograms(3, 200), mask_of(torch.tensor([200, 60, 130]), 200)
    with torch.no_grad():
        expected = model(features, mask).logits
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(model(features, mask).logits.float(), expected, atol=0.03, rtol=0)
        loaded_extractor = model.to(torch.bfloat16)(features.to(torch.bfloat16), mask).logits
    torch.testing.assert_close(loaded_extractor.float(), expected, atol=0.03, rtol=0)


@pytest.mark.parametrize("n_mels", [23, 64, 80])
def test_any_number_of_mel_bands_works(n_mels: int) -> None:
    extractor, model = create(RESNET, {"n_mels": n_mels})
    assert model.config.feature_size == extractor.feature_size == n_mels
    assert model(**extractor([noise(4000), noise(9000)], return_tensors="pt")).logits.isfinite().all()


@pytest.mark.parametrize("name", SMALLEST)
def test_short_clips_can_be_trained_on(name: str) -> None:
    extractor, model = create(name)
    model.train()
    batch = extractor([noise(1), noise(20, seed=1)], return_tensors="pt")
    model(**batch, labels=torch.tensor([0, 1])).loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("patch", [None, 96])
@pytest.mark.parametrize("name", SMALLEST)
def test_gradient_reaches_every_parameter(name: str, patch: int | None) -> None:
    _, model = create(name, patch_frames=patch, head_dropout=0.0)
    lengths = torch.tensor([200, 150, 90, 120])
    features = spectrograms(4, 200)
    model.train()
    model(features, mask_of(lengths, 200), labels=torch.arange(4)).loss.backward()
    assert [
        key for key, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ] == []


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
def test_every_parameter_belongs_to_one_stage(name: str) -> None:
    """Otherwise frozen parameters would be trained, or parameters would be in no or two groups of the optimizer."""
    with torch.device("meta"):
        backbone = make_alexnet() if name == ALEXNET else build_on_meta(name)
    stages = parameters_by_stage(backbone)
    parameter_ids = [id(parameter) for stage in stages for parameter in stage]
    assert len(parameter_ids) == len(set(parameter_ids))
    assert set(parameter_ids) == {id(parameter) for parameter in backbone.parameters()}
    assert len(stages) == STAGES[name]
    stage_of = {
        key: number
        for key, parameter in backbone.named_parameters()
        for number, stage in enumerate(stages)
        if any(parameter is candidate for candidate in stage)
    }
    order = list(stage_of.values())
    assert order[0] == 0
    assert order[-1] == len(stages) - 1
    assert order == sorted(order), "a parameter is in a lower stage than an earlier one"


def build_on_meta(name: str) -> torch.nn.Module:
    return timm.create_model(name.removeprefix("timm/"), in_chans=1, features_only=True, out_indices=(-1,))


def test_position_embeddings_of_a_transformer_are_in_the_lowest_stage() -> None:
    """They belong to no module's forward pass, and would never be frozen without a stage."""
    _, model = create("timm/test_vit")
    parameter_ids = {id(parameter) for stage in parameters_by_stage(model.backbone) for parameter in stage}
    assert parameter_ids == {id(parameter) for parameter in model.backbone.parameters()}


@pytest.mark.parametrize("name", [*SMALLEST, BLUR, pytest.param(DENSE, marks=pytest.mark.slow)])
def test_auto_classes_load_a_saved_network(name: str, saved: Callable[[str], tuple[Path, ImageModel]]) -> None:
    """Non-persistent buffers such as blur filters would not be restored."""
    folder, (extractor, model) = saved(name)
    loaded = AutoModelForAudioClassification.from_pretrained(folder)
    assert type(loaded) is SpectrogramForAudioClassification
    assert loaded.config.id2label == dict(enumerate(CLASSES))
    weights, loaded_weights = model.state_dict(), loaded.state_dict()
    assert weights.keys() == loaded_weights.keys()
    assert all(torch.equal(loaded_weights[key], value) for key, value in weights.items())
    assert {key for key, _ in model.named_buffers()} <= loaded_weights.keys()
    loaded_extractor = AutoFeatureExtractor.from_pretrained(folder)
    assert loaded_extractor.to_dict() == extractor.to_dict()
    assert {file.suffix for file in folder.iterdir()} == {".json", ".safetensors", ".py"}
    features = spectrograms(2, 70)
    with torch.inference_mode():
        assert torch.equal(loaded.eval()(features).logits, model(features).logits)


@pytest.mark.slow
def test_saved_folders_need_only_transformers_and_timm(
    saved: Callable[[str], tuple[Path, ImageModel]], tmp_path: Path
) -> None:
    names = (*SMALLEST, BLUR)
    loaded_extractor = [saved(name) for name in names]
    sounds = [noise(9000, 7), noise(300, 8), noise(40_000, 9)]
    configs = answers([folder for folder, _ in loaded_extractor], sounds, tmp_path)
    for name, (folder, (extractor, model)), answer in zip(names, loaded_extractor, configs, strict=True):
        classify = pipeline("audio-classification", str(folder), top_k=None)
        for scores, sound in zip(answer, sounds, strict=True):
            with torch.inference_mode():
                weights = model(**extractor(sound, return_tensors="pt")).logits[0].softmax(-1).tolist()
            assert scores == pytest.approx(dict(zip(CLASSES, weights, strict=True)), abs=1e-5), name
            installed_scores = {
                parameter["label"]: parameter["score"]
                for parameter in classify({"raw": sound, "sampling_rate": 16_000})
            }
            assert installed_scores == pytest.approx(scores, abs=1e-5), name


def test_a_saved_network_can_be_trained_for_other_classes(saved: Callable[[str], tuple[Path, ImageModel]]) -> None:
    folder, (extractor, model) = saved(RESNET)
    assert model_kind(str(folder)) == "image"
    for classes in (CLASSES[::-1], ("calm", "fear", "disgust"), CLASSES):
        loaded, changed = build_model(str(folder), classes, {}, {})
        assert loaded.to_dict() == extractor.to_dict()
        assert list(changed.config.id2label.values()) == list(classes)
        assert changed.classifier.weight.isfinite().all()
        is_kept = torch.equal(changed.classifier.weight[:3], model.classifier.weight[:3])
        assert is_kept == (classes == CLASSES)
        weights, loaded_weights = model.backbone.state_dict(), changed.backbone.state_dict()
        assert all(torch.equal(value, loaded_weights[key]) for key, value in weights.items())


@pytest.mark.parametrize(
    ("name", "features", "network", "message"),
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
def test_wrong_names_and_settings_are_refused_in_one_line(
    name: str, features: dict[str, Any], network: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        build_model(name, CLASSES, features, network, pretrained=False)
    assert "\n" not in str(error.value)


def test_kind_of_a_name_or_folder(tmp_path: Path) -> None:
    kinds = {"mfcc-cnn": "own", "lstm": "own", "timm/vgg16": "image", ALEXNET: "image", "facebook/hubert": "speech"}
    assert {name: model_kind(name) for name in kinds} == kinds
    image = {"architecture": "resnet18", "pretrained_cfg": {}}
    configs = ({"model_type": "hubert"}, "speech"), ({"model_type": "ser_ft_lstm"}, "own"), (image, "image")
    for config, kind in configs:
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert model_kind(str(tmp_path)) == kind


def test_a_model_can_be_created_from_its_config_alone() -> None:
    config = SpectrogramConfig(backbone="test_resnet")
    assert SpectrogramForAudioClassification(config)(torch.zeros(1, 4, config.feature_size)).logits.shape == (1, 2)
