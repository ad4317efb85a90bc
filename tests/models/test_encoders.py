"""Pretrained encoders: loading, and one-line errors."""

import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.utils as hub
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertConfig, BertModel, PreTrainedModel
from transformers.utils import logging

from ser_ft.models.encoder_spec import find_encoder
from ser_ft.models.encoders import EncoderParts, load_encoder
from ser_ft.utils.errors import InputError
from tests.helpers.tiny_encoders import FAMILIES

CLASSES = ("neutral", "happy", "sad")
WEIGHTED = tuple(family for family in FAMILIES if family != "ast")  # AST's head uses the last layer only


def loaded(folder: Path, classes: tuple[str, ...] = CLASSES, **settings: Any) -> PreTrainedModel:
    return load_encoder(find_encoder(str(folder), classes, **settings))


def saved(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


# ---- refused checkpoints and settings


def refused(message: str, work: Callable[[], Any]) -> None:
    """The error message is one readable line."""
    with pytest.raises(InputError, match=message) as e:
        work()
    assert "\n" not in str(e.value) and len(str(e.value)) < 600  # noqa: PT018


@pytest.fixture
def copy_of(tiny_encoder: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    return lambda family: Path(shutil.copytree(tiny_encoder(family), tmp_path / family))


def test_a_folder_without_an_encoder_or_its_extractor_is_refused(
    tmp_path: Path, tiny_encoder: Callable[[str], Path]
) -> None:
    refused(f"^{tmp_path}: transformers cannot load a speech model", lambda: find_encoder(str(tmp_path), CLASSES))
    shutil.copy(tiny_encoder("hubert") / "config.json", tmp_path)
    refused("preprocessor_config.json", lambda: find_encoder(str(tmp_path), CLASSES))


def test_a_text_model_is_refused_by_name(tmp_path: Path) -> None:
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertModel(BertConfig(**small, vocab_size=8)).save_pretrained(tmp_path)
    refused(rf"^{tmp_path}: bert is not a speech classifier; .*wav2vec2", lambda: loaded(tmp_path))


def test_an_unreachable_hub_is_reported_within_seconds() -> None:
    start = time.monotonic()
    refused("^facebook/wav2vec2-base: .*Hub", lambda: find_encoder("facebook/wav2vec2-base", CLASSES))
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("family", "network", "message"),
    [
        ("wav2vec2", {"no_such": 1}, "no setting 'no_such'"),
        ("wav2vec2", {"to_dict": 1}, "no setting 'to_dict'"),
        ("wav2vec2", {"return_dict": False}, "no setting 'return_dict'"),
        ("wav2vec2", {"num_labels": 4}, "no setting 'num_labels'"),
        ("wav2vec2", {"mask_time_prob": "much"}, r"mask_time_prob must be a value like 0\.05, not 'much'"),
        ("wav2vec2", {"mask_time_length": 2.5}, r"mask_time_length must be a value like 10, not 2\.5"),
        ("wav2vec2", {"mask_time_length": True}, "mask_time_length must be a value like 10, not True"),
        ("wav2vec2", {"conv_bias": 1}, "conv_bias must be a value like False, not 1"),
        ("whisper", {"mask_time_prob": 0.1}, "mask_time_prob.* whisper"),
        ("ast", {"mask_time_prob": 0.1}, "mask_time_prob"),
        ("wav2vec2", {"mask_time_length": 0}, "mask_time_length"),
        ("wav2vec2-bert", {"mask_time_length": 0}, "mask_time_length"),
        ("wav2vec2", {"mask_time_prob": 1.5}, "mask_time_prob"),
        ("wav2vec2", {"num_hidden_layers": 2}, r"num_hidden_layers: use model\.num_layers"),
        ("whisper", {"encoder_layers": 2}, r"encoder_layers: use model\.num_layers"),
        ("wav2vec2", {"max_source_positions": "auto"}, "max_source_positions applies to Whisper"),
        ("whisper", {"max_source_positions": 75}, "max_source_positions must be a multiple of 50"),
        ("whisper", {"max_source_positions": 400}, "max_source_positions must be a multiple of 50 up to 200"),
    ],
)
def test_wrong_config_overrides_are_refused(
    family: str, network: dict[str, Any], message: str, tiny_encoder: Callable[[str], Path]
) -> None:
    """Before weights are loaded, and instead of failing in the first training step."""
    folder = tiny_encoder(family)
    refused(message, lambda: find_encoder(str(folder), CLASSES, network))


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        *[(family, {"num_layers": 5}, "num_layers must be from 1 to 4") for family in ("wav2vec2", "whisper", "ast")],
        ("whisper", {"num_layers": 0}, "num_layers must be from 1 to 4"),
        ("whisper", {"layers": [5]}, "layers must be numbers from 0 to 4"),
        ("whisper", {"layers": [-1]}, "layers must be numbers from 0 to 4"),
        ("wav2vec2", {"layers": [4], "num_layers": 3, "head": "attentive"}, "layers must be numbers from 0 to 3"),
        ("whisper", {"layers": []}, "layers must be numbers"),
        ("wav2vec2", {"layers": [2]}, "layers: the stock head uses last or learned; numbers need"),
    ],
)
def test_layers_that_the_checkpoint_lacks_are_refused(
    family: str, settings: dict[str, Any], message: str, tiny_encoder: Callable[[str], Path]
) -> None:
    """Additional layers would have random weights."""
    refused(f"model.{message}", lambda: find_encoder(str(tiny_encoder(family)), CLASSES, **settings))


@pytest.mark.parametrize("network", [{"conv_stride": [5, 2]}, {"num_attention_heads": 3}, {"num_attention_heads": 0}])
def test_impossible_settings_are_refused_in_one_line(
    network: dict[str, Any], tiny_encoder: Callable[[str], Path]
) -> None:
    refused("wav2vec2", lambda: loaded(tiny_encoder("wav2vec2"), config_overrides=network))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_missing_weight_of_the_encoder_is_named(family: str, copy_of: Callable[[str], Path]) -> None:
    """transformers would only warn, and initialize it with random numbers."""
    folder = copy_of(family)
    weights = saved(folder)
    missing = next(name for name in weights if re.search(r"(?<!decoder\.)layers?\.1\..*weight", name))
    save_file({name: value for name, value in weights.items() if name != missing}, folder / "model.safetensors")
    refused(rf"^{folder}: 1 weights? .*layers\.1\.", lambda: loaded(folder))


_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"5" * 64 + b"\nsize 80000\n"


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("part", ["pointer", "half", "beginning", "nothing"])
def test_a_damaged_weights_file_is_refused_in_one_line(part: str, kind: str, copy_of: Callable[[str], Path]) -> None:
    """A clone without git-lfs or an incomplete download; the message must not suggest unsafe unpickling."""
    folder = copy_of("wavlm")
    if kind.endswith("bin"):
        torch.save(saved(folder), folder / kind)
        (folder / "model.safetensors").unlink()
        loaded(folder, allow_pickle=True)
    complete = (folder / kind).read_bytes()
    parts = {"pointer": _POINTER, "half": complete[: len(complete) // 2], "beginning": complete[:100], "nothing": b""}
    (folder / kind).write_bytes(parts[part])
    refused(f"^{folder}: (?!.*weights_only)", lambda: loaded(folder, allow_pickle=True))
    (folder / kind).unlink()
    refused(
        f"^{folder}: there are no weights .model.safetensors. in this folder", lambda: loaded(folder, allow_pickle=True)
    )


# ---- loaded encoders


@pytest.mark.parametrize("family", FAMILIES)
def test_num_layers_keeps_the_lowest_layers(family: str, tiny_encoder: Callable[[str], Path]) -> None:
    complete = EncoderParts.of(loaded(tiny_encoder(family)))
    cut = EncoderParts.of(loaded(tiny_encoder(family), num_layers=2))
    assert (len(complete.layers), len(cut.layers)) == (4, 2)
    before, after = complete.backbone.state_dict(), cut.backbone.state_dict()
    upper = re.compile(r"(^|encoder\.)layers\.[23]\.")
    assert after.keys() == {name for name in before if not upper.search(name)}
    # Compared by content, because some families rename weights during loading.
    checkpoint = {value.numpy().tobytes() for value in saved(tiny_encoder(family)).values()}
    for name, value in after.items():
        if not name.endswith("masked_spec_embed"):
            assert torch.equal(value, before[name]), name
            assert value.numpy().tobytes() in checkpoint, name


def test_a_shortened_whisper_keeps_its_first_positions(tiny_encoder: Callable[[str], Path]) -> None:
    spec = find_encoder(str(tiny_encoder("whisper")), CLASSES, {"max_source_positions": 50}, head="stock")
    extract: Any = spec.extractor
    assert extract(np.ones(48_000), sampling_rate=16_000)["input_features"][0].shape == (80, 100)
    cut, complete = (
        EncoderParts.of(module).backbone for module in (load_encoder(spec), loaded(tiny_encoder("whisper")))
    )
    assert torch.allclose(cut.embed_positions.weight, complete.embed_positions.weight[:50])


@pytest.mark.parametrize("family", ["wav2vec2", "whisper", "ast"])
def test_a_fine_tuned_checkpoint_gets_a_new_head(
    family: str, tiny_encoder: Callable[[str], Path], tmp_path: Path
) -> None:
    spec = find_encoder(str(tiny_encoder(family)), CLASSES)
    first = load_encoder(spec)
    with torch.no_grad():
        for value in EncoderParts.of(first).backbone.parameters():
            value.add_(0.01)
    for part in (first, spec.extractor):
        part.save_pretrained(tmp_path / "tuned")
    second = loaded(tmp_path / "tuned", ("yes", "no", "maybe", "never", "always"))
    assert second.config.id2label == dict(enumerate(("yes", "no", "maybe", "never", "always")))
    backbone_weights, loaded_weights = (EncoderParts.of(model).backbone.state_dict() for model in (first, second))
    assert backbone_weights.keys() == loaded_weights.keys()
    assert all(torch.equal(loaded_weights[name], value) for name, value in backbone_weights.items())
    heads = [value for value in EncoderParts.of(second).head if value.shape[0] == 5]
    assert [value.ndim for value in heads] == [2, 1]
    assert all(value.abs().max() < 2 for value in heads), "the head is not initialized"


@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_sets_every_dropout(family: str, tiny_encoder: Callable[[str], Path]) -> None:
    """In the modules of the encoder and of a stock head, not only in the configuration; layerdrop is 0."""
    model = loaded(tiny_encoder(family), dropout=0.3, head="stock")
    modules = {name: module.p for name, module in model.named_modules() if isinstance(module, nn.Dropout)}
    numbers = {
        f"{name}.{key}": value
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if "dropout" in key and isinstance(value, int | float)
    }
    assert len(modules) + len(numbers) >= 4
    assert {name for name, value in (modules | numbers).items() if value != 0.3} == set()
    assert getattr(model.config, "layerdrop", 0) == getattr(model.config, "encoder_layerdrop", 0) == 0


@pytest.mark.parametrize("family", WEIGHTED)
def test_a_new_weighted_layer_sum_starts_with_equal_weights(family: str, tiny_encoder: Callable[[str], Path]) -> None:
    """transformers 5.23 leaves it uninitialized, sometimes NaN."""
    littered = [torch.full((5,), float("nan")) for _ in range(200)]
    del littered
    weights = loaded(tiny_encoder(family), layers="learned").layer_weights
    assert torch.equal(weights, torch.full((5,), weights[0].item()))


def test_a_learned_weighted_layer_sum_is_kept(tiny_encoder: Callable[[str], Path], tmp_path: Path) -> None:
    spec = find_encoder(str(tiny_encoder("wavlm")), CLASSES, layers="learned")
    model = load_encoder(spec)
    with torch.no_grad():
        model.layer_weights.copy_(torch.arange(5.0))
    for part in (model, spec.extractor):
        part.save_pretrained(tmp_path / "probed")
    again = loaded(tmp_path / "probed", layers="learned")
    assert torch.equal(again.layer_weights, torch.arange(5.0))
    assert torch.equal(again.classifier.weight, model.classifier.weight)


@pytest.mark.parametrize("bars", [True, False])
@pytest.mark.parametrize("bars_of_hub", [True, False])
def test_loading_does_not_change_verbosity_and_progress_bars(
    bars: bool, bars_of_hub: bool, tiny_encoder: Callable[[str], Path]
) -> None:
    """In a notebook, the user's settings stay in force."""

    def loudness() -> tuple[int, bool, bool]:
        return logging.get_verbosity(), logging.is_progress_bar_enabled(), not hub.are_progress_bars_disabled()

    def make(verbosity: int, bars: bool, bars_of_hub: bool) -> None:
        logging.set_verbosity(verbosity)
        (logging.enable_progress_bar if bars else logging.disable_progress_bar)()
        (hub.enable_progress_bars if bars_of_hub else hub.disable_progress_bars)()

    before = loudness()
    try:
        make(logging.INFO, bars, bars_of_hub)
        loaded(tiny_encoder("hubert"))
        assert loudness() == (logging.INFO, bars, bars_of_hub)
        with pytest.raises(InputError):
            loaded(tiny_encoder("hubert"), num_layers=5)
        assert loudness() == (logging.INFO, bars, bars_of_hub)
    finally:
        make(*before)


def test_loading_prints_nothing(tiny_encoder: Callable[[str], Path], capfd: pytest.CaptureFixture[str]) -> None:
    """transformers' table of unused and new weights would hide the relevant messages."""
    loaded(tiny_encoder("wav2vec2"))
    assert capfd.readouterr() == ("", "")
