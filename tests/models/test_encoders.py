"""Pretrained encoders come in whole or with one line that says why not, and go out as checkpoints that anyone loads."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
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

from ser_ft import audio
from ser_ft.config.parser import parse
from ser_ft.data.prepare import open_prepared, prepare
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.models.encoders import EncoderParts, find_encoder, load_encoder
from ser_ft.pipeline import run
from ser_ft.utils.errors import InputError
from tests.helpers.tiny_encoders import FAMILIES, write_tiny_backbone

CLASSES = ("neutral", "happy", "sad")
WEIGHTED = tuple(family for family in FAMILIES if family != "ast")  # whose head takes the last layer alone


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("backbones")

    def get(family: str) -> Path:
        return folder / family if (folder / family).exists() else write_tiny_backbone(family, folder / family)

    return get


def loaded(folder: Path, classes: tuple[str, ...] = CLASSES, **settings: Any) -> PreTrainedModel:
    return load_encoder(find_encoder(str(folder), classes, **settings))


def saved(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


# ---- what goes out

# Case -> its checkpoint, and how it is tuned.
TUNED: dict[str, tuple[str, list[str]]] = {
    family: (family, ["--tuning.mode=full"]) for family in (*FAMILIES, "wavlm-large", "wav2vec2-large")
} | {
    "wavlm by LoRA": ("wavlm", ["--tuning.mode=lora"]),
    "hubert's weighted layers": ("hubert", ["--tuning.mode=probe"]),
    "whisper of 1 s": ("whisper", ["--tuning.mode=full", "--model.config_overrides={max_source_positions: 50}"]),
}
# Predictions are made in float32, but from convolutional features that were kept in half precision (11 bits).
# Measured in probabilities: 3e-5 at most, and 6e-8 where nothing is kept.
TOLERANCE = 2e-4
_STOCK = """
import json, sys
sys.modules["ser_ft"] = None  # whatever imports it fails
import numpy as np
from transformers import pipeline
told, answers = json.load(open("told.json")), {}
for case, folder in told["folders"].items():
    try:
        ask = pipeline("audio-classification", folder)
        answers[case] = {}
        for name in told["clips"]:
            given = {"raw": np.load(f"{name}.npy"), "sampling_rate": 16000}
            answers[case][name] = [[one["label"], one["score"]] for one in ask(given, top_k=None)]
    except Exception as error:
        answers[case] = f"{type(error).__name__}: {error}"
assert sys.modules["ser_ft"] is None and not any(name.startswith("ser_ft.") for name in sys.modules)
json.dump(answers, open("answers.json", "w"))
"""


@pytest.fixture(scope="module")
def voices(miniature_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared table of RAVDESS's two synthetic speakers, whose clips may be of any class."""
    folder = tmp_path_factory.mktemp("voices") / "table"
    prepare(miniature_tree / "RAVDESS", folder, verbose=False)
    return folder


@pytest.fixture(scope="module")
def heard(voices: Path) -> dict[str, np.ndarray]:
    """Some clips, by their names: of both speakers, so of training and test."""
    table = open_prepared(voices)
    chosen = table.select(np.linspace(0, len(table) - 1, 3).round().astype(int))
    return {row["id"]: audio.from_wav(row["audio"]["bytes"]) for row in chosen}


@pytest.fixture(scope="module")
def tuned(
    folder_of: Callable[[str], Path], voices: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, RunFolder]:
    """The runs of all cases, at rates that let one epoch move what is trained."""
    root = tmp_path_factory.mktemp("runs")
    common = [f"--data.prepared={voices}", "--split.kind=kfold", "--split.folds=2", "--split.validation=0"]
    common += ["--train.epochs=1", "--train.learning_rate=0.01", "--tuning.learning_rate=0.003", "--baselines=[]"]
    found = {}
    for number, (case, (family, tuning)) in enumerate(TUNED.items()):
        own = [f"--model.name={folder_of(family)}", f"--out={root / f'run{number}'}", *tuning]
        found[case] = run(parse([*common, *own], "test"), verbose=False)
    return found


@pytest.fixture(scope="module")
def answers(
    tuned: Mapping[str, RunFolder], heard: Mapping[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What stock transformers say of each saved model's clips, in one process that cannot import ser_ft."""
    folder = tmp_path_factory.mktemp("stock")
    for name, wave in heard.items():
        np.save(folder / f"{name}.npy", wave)
    folders = {case: str(one.model) for case, one in tuned.items()}
    (folder / "told.json").write_text(json.dumps({"folders": folders, "clips": list(heard)}))
    done = subprocess.run(
        [sys.executable, "-c", _STOCK], cwd=folder, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return dict(json.loads((folder / "answers.json").read_text()))


@pytest.mark.slow
@pytest.mark.parametrize("case", TUNED)
def test_stock_pipeline_gives_the_predictions_without_ser_ft(
    case: str, tuned: Mapping[str, RunFolder], answers: Mapping[str, Any], heard: Mapping[str, np.ndarray]
) -> None:
    """Else the model that is published is not the one whose scores are."""
    folder, answer = tuned[case], answers[case]
    assert not isinstance(answer, str), answer
    classes = folder.metrics["classes"]
    expected = folder.predictions.set_index("id").loc[list(heard), classes].to_numpy(dtype=float)
    assert (expected.max(axis=0) - expected.min(axis=0)).max() > 10 * TOLERANCE, "the clips cannot be told apart"
    assert all(sorted(label for label, _ in answer[name]) == sorted(classes) for name in heard)
    found = np.array([[dict(answer[name])[label] for label in classes] for name in heard])
    assert np.abs(found - expected).max() < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("case", TUNED)
def test_a_saved_model_says_what_it_is_and_not_where_it_was_made(
    case: str, tuned: Mapping[str, RunFolder], folder_of: Callable[[str], Path], voices: Path
) -> None:
    """A path names its user to whoever downloads the model, and leads nowhere there."""
    folder = tuned[case]
    config = json.loads((folder.model / "config.json").read_text())
    classes = folder.metrics["classes"]
    assert (len(classes), config["dtype"]) == (8, "float32")
    assert [config["id2label"][str(number)] for number in range(len(classes))] == classes
    assert config["label2id"] == {label: number for number, label in enumerate(classes)}
    assert {file.name for file in folder.model.iterdir()} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
    local = [folder.path.parent, folder_of(TUNED[case][0]).parent, voices.parent, Path.home(), Path.cwd()]
    for file in folder.model.glob("*.json"):
        text = file.read_text()
        assert not [path for path in local if len(str(path)) > 1 and str(path) in text], file.name
        assert "ser_ft" not in text, "stock transformers would look for code of ours"


# ---- what does not come in


def refused(said: str, work: Callable[[], Any]) -> None:
    """The user is shown one line, which can be read."""
    with pytest.raises(InputError, match=said) as e:
        work()
    assert "\n" not in str(e.value) and len(str(e.value)) < 600  # noqa: PT018


@pytest.fixture
def copy_of(folder_of: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    return lambda family: Path(shutil.copytree(folder_of(family), tmp_path / family))


def test_a_folder_without_an_encoder_or_its_extractor_is_refused(
    tmp_path: Path, folder_of: Callable[[str], Path]
) -> None:
    refused(f"^{tmp_path}: transformers cannot load a speech model", lambda: find_encoder(str(tmp_path), CLASSES))
    shutil.copy(folder_of("hubert") / "config.json", tmp_path)
    refused("preprocessor_config.json", lambda: find_encoder(str(tmp_path), CLASSES))


def test_a_text_model_is_told_by_name(tmp_path: Path) -> None:
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertModel(BertConfig(**small, vocab_size=8)).save_pretrained(tmp_path)
    refused(rf"^{tmp_path}: bert is not a speech classifier; .*wav2vec2", lambda: loaded(tmp_path))


def test_a_hub_that_cannot_be_reached_is_said_at_once() -> None:
    start = time.monotonic()
    refused("^facebook/wav2vec2-base: .*Hub", lambda: find_encoder("facebook/wav2vec2-base", CLASSES))
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("family", "network", "said"),
    [
        ("wav2vec2", {"no_such": 1}, "no setting 'no_such'"),
        ("wav2vec2", {"to_dict": 1}, "no setting 'to_dict'"),
        ("wav2vec2", {"return_dict": False}, "no setting 'return_dict'"),
        ("wav2vec2", {"num_labels": 4}, "no setting 'num_labels'"),
        ("wav2vec2", {"mask_time_prob": "much"}, r"mask_time_prob must be a value like 0\.05, not 'much'"),
        ("wav2vec2", {"num_hidden_layers": 2.5}, r"num_hidden_layers must be a value like 4, not 2\.5"),
        ("wav2vec2", {"num_hidden_layers": True}, "num_hidden_layers must be a value like 4, not True"),
        ("wav2vec2", {"conv_bias": 1}, "conv_bias must be a value like False, not 1"),
        ("whisper", {"mask_time_prob": 0.1}, "mask_time_prob.* whisper"),
        ("ast", {"mask_time_prob": 0.1}, "mask_time_prob"),
        ("wav2vec2", {"mask_time_length": 0}, "mask_time_length"),
        ("wav2vec2-bert", {"mask_time_length": 0}, "mask_time_length"),
        ("wav2vec2", {"mask_time_prob": 1.5}, "mask_time_prob"),
        ("wav2vec2", {"num_hidden_layers": 0}, "num_hidden_layers"),
        ("whisper", {"num_hidden_layers": 0}, "num_hidden_layers"),
        ("ast", {"num_hidden_layers": 0}, "num_hidden_layers"),
        ("whisper", {"max_source_positions": 75}, "max_source_positions must be a multiple of 50"),
        ("whisper", {"max_source_positions": 400}, "max_source_positions must be a multiple of 50 up to 200"),
    ],
)
def test_settings_that_the_encoder_cannot_have_are_refused(
    family: str, network: dict[str, Any], said: str, folder_of: Callable[[str], Path]
) -> None:
    """Before any weight is read: a run must not end in its first step, or train what was not asked for."""
    folder = folder_of(family)
    refused(said, lambda: find_encoder(str(folder), CLASSES, network))


@pytest.mark.parametrize("family", ["wav2vec2", "whisper", "ast"])
def test_more_layers_than_the_checkpoint_has_are_refused(family: str, folder_of: Callable[[str], Path]) -> None:
    """Layers of random weights in a pretrained encoder would be taken for a poor encoder."""
    refused(
        "from 1 to 4, the checkpoint's layers",
        lambda: loaded(folder_of(family), config_overrides={"num_hidden_layers": 5}),
    )


@pytest.mark.parametrize("network", [{"conv_stride": [5, 2]}, {"num_attention_heads": 3}, {"num_attention_heads": 0}])
def test_settings_of_no_network_are_one_line(network: dict[str, Any], folder_of: Callable[[str], Path]) -> None:
    refused("wav2vec2", lambda: loaded(folder_of("wav2vec2"), config_overrides=network))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_missing_weight_of_the_encoder_is_told_by_name(family: str, copy_of: Callable[[str], Path]) -> None:
    """transformers would fill it with random numbers, with a warning that scrolls by."""
    folder = copy_of(family)
    weights = saved(folder)
    lost = next(name for name in weights if re.search(r"(?<!decoder\.)layers?\.1\..*weight", name))
    save_file({name: value for name, value in weights.items() if name != lost}, folder / "model.safetensors")
    refused(rf"^{folder}: 1 weights? .*layers\.1\.", lambda: loaded(folder))


_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"5" * 64 + b"\nsize 80000\n"


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("part", ["pointer", "half", "beginning", "nothing"])
def test_a_file_that_holds_no_weights_is_one_line(part: str, kind: str, copy_of: Callable[[str], Path]) -> None:
    """A clone without git-lfs, or a download that broke off: nobody is to be told to unpickle it all the same."""
    folder = copy_of("wavlm")
    if kind.endswith("bin"):
        torch.save(saved(folder), folder / kind)
        (folder / "model.safetensors").unlink()
        loaded(folder)
    whole = (folder / kind).read_bytes()
    parts = {"pointer": _POINTER, "half": whole[: len(whole) // 2], "beginning": whole[:100], "nothing": b""}
    (folder / kind).write_bytes(parts[part])
    refused(f"^{folder}: (?!.*weights_only)", lambda: loaded(folder))
    (folder / kind).unlink()
    refused(f"^{folder}: .*no file named model.safetensors", lambda: loaded(folder))


# ---- what comes in


@pytest.mark.parametrize("family", FAMILIES)
def test_the_lower_layers_alone(family: str, folder_of: Callable[[str], Path]) -> None:
    """num_hidden_layers: 2 takes the checkpoint's first two as they are, and all that lies below them."""
    whole = EncoderParts.of(loaded(folder_of(family)))
    cut = EncoderParts.of(loaded(folder_of(family), config_overrides={"num_hidden_layers": 2}))
    assert (len(whole.layers), len(cut.layers)) == (4, 2)
    before, after = whole.backbone.state_dict(), cut.backbone.state_dict()
    upper = re.compile(r"(^|encoder\.)layers\.[23]\.")
    assert after.keys() == {name for name in before if not upper.search(name)}
    # By what they hold: what some families call them changes while they are loaded.
    checkpoint = {value.numpy().tobytes() for value in saved(folder_of(family)).values()}
    for name, value in after.items():
        if not name.endswith("masked_spec_embed"):
            assert torch.equal(value, before[name]), name
            assert value.numpy().tobytes() in checkpoint, name


def test_a_shorter_whisper_hears_its_first_seconds(folder_of: Callable[[str], Path]) -> None:
    """Where each frame stands is what it is in the whole model."""
    found = find_encoder(str(folder_of("whisper")), CLASSES, {"max_source_positions": 50})
    given: Any = found.extractor
    assert given(np.ones(48_000), sampling_rate=16_000)["input_features"][0].shape == (80, 100)
    cut, whole = (EncoderParts.of(one).backbone for one in (load_encoder(found), loaded(folder_of("whisper"))))
    assert torch.allclose(cut.embed_positions.weight, whole.embed_positions.weight[:50])


@pytest.mark.parametrize("family", ["wav2vec2", "whisper", "ast"])
def test_a_fine_tuned_checkpoint_gets_a_new_head(family: str, folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    """With other classes; its encoder is kept."""
    found = find_encoder(str(folder_of(family)), CLASSES)
    first = load_encoder(found)
    with torch.no_grad():
        for value in EncoderParts.of(first).backbone.parameters():
            value.add_(0.01)
    for part in (first, found.extractor):
        part.save_pretrained(tmp_path / "tuned")
    second = loaded(tmp_path / "tuned", ("yes", "no", "maybe", "never", "always"))
    assert second.config.id2label == dict(enumerate(("yes", "no", "maybe", "never", "always")))
    kept, own = EncoderParts.of(first).backbone.state_dict(), EncoderParts.of(second).backbone.state_dict()
    assert kept.keys() == own.keys()
    assert all(torch.equal(own[name], value) for name, value in kept.items())
    heads = [value for value in EncoderParts.of(second).head if value.shape[0] == 5]
    assert [value.ndim for value in heads] == [2, 1]
    assert all(value.abs().max() < 2 for value in heads), "the head is as the memory was"


@pytest.mark.parametrize("family", FAMILIES)
def test_one_number_sets_every_dropout(family: str, folder_of: Callable[[str], Path]) -> None:
    """In the network itself, not in a configuration that nobody reads; and no layer is dropped whole."""
    model = loaded(folder_of(family), dropout=0.3)
    modules = {name: one.p for name, one in model.named_modules() if isinstance(one, nn.Dropout)}
    numbers = {
        f"{name}.{key}": value
        for name, one in model.named_modules()
        for key, value in vars(one).items()
        if "dropout" in key and isinstance(value, int | float)
    }
    assert len(modules) + len(numbers) >= 4
    assert {name for name, value in (modules | numbers).items() if value != 0.3} == set()
    assert getattr(model.config, "layerdrop", 0) == getattr(model.config, "encoder_layerdrop", 0) == 0


@pytest.mark.parametrize("family", WEIGHTED)
def test_a_new_weighting_of_layers_begins_equal(family: str, folder_of: Callable[[str], Path]) -> None:
    """transformers 5.23 leaves it as the memory was: NaN, at times."""
    littered = [torch.full((5,), float("nan")) for _ in range(200)]
    del littered
    weights = loaded(folder_of(family), weighted_layer_sum=True).layer_weights
    assert torch.equal(weights, torch.full((5,), weights[0].item()))


def test_a_learned_weighting_of_layers_is_kept(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    found = find_encoder(str(folder_of("wavlm")), CLASSES, weighted_layer_sum=True)
    model = load_encoder(found)
    with torch.no_grad():
        model.layer_weights.copy_(torch.arange(5.0))
    for part in (model, found.extractor):
        part.save_pretrained(tmp_path / "probed")
    again = loaded(tmp_path / "probed", weighted_layer_sum=True)
    assert torch.equal(again.layer_weights, torch.arange(5.0))
    assert torch.equal(again.classifier.weight, model.classifier.weight)


@pytest.mark.parametrize("bars", [True, False])
@pytest.mark.parametrize("bars_of_hub", [True, False])
def test_loading_leaves_transformers_as_loud_as_it_was(
    bars: bool, bars_of_hub: bool, folder_of: Callable[[str], Path]
) -> None:
    """In a notebook, what the user chose goes for the cells after it."""

    def loudness() -> tuple[int, bool, bool]:
        return logging.get_verbosity(), logging.is_progress_bar_enabled(), not hub.are_progress_bars_disabled()

    def make(verbosity: int, bars: bool, bars_of_hub: bool) -> None:
        logging.set_verbosity(verbosity)
        (logging.enable_progress_bar if bars else logging.disable_progress_bar)()
        (hub.enable_progress_bars if bars_of_hub else hub.disable_progress_bars)()

    before = loudness()
    try:
        make(logging.INFO, bars, bars_of_hub)
        loaded(folder_of("hubert"))
        assert loudness() == (logging.INFO, bars, bars_of_hub)
        with pytest.raises(InputError):
            loaded(folder_of("hubert"), config_overrides={"num_hidden_layers": 5})
        assert loudness() == (logging.INFO, bars, bars_of_hub)
    finally:
        make(*before)


def test_loading_says_nothing(folder_of: Callable[[str], Path], capfd: pytest.CaptureFixture[str]) -> None:
    """transformers' table of unused and new weights frightens, and hides what counts."""
    loaded(folder_of("wav2vec2"))
    assert capfd.readouterr() == ("", "")
