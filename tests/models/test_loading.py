"""Models from elsewhere: what they could do to the machine or to the answers is refused in one line."""

from __future__ import annotations

import json
import math
import os
import pickle
import pty
import resource
import select
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForSequenceClassification

from ser_ft.cli import main, make_parser
from ser_ft.cli.demo import read_options
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.models.encoder_spec import find_encoder
from ser_ft.models.encoders import load_encoder
from ser_ft.models.outputs import NotFiniteError, check_classes, to_probabilities
from ser_ft.models.pretrained import PretrainedClassifier
from ser_ft.models.registry import build_model
from ser_ft.training.checkpoints import Checkpoints
from ser_ft.training.ema import EMA
from ser_ft.utils.errors import InputError

NAMES = ("angry", "happy", "neutral", "sad")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny wav2vec 2.0 classifier."""
    folder = tmp_path_factory.mktemp("models") / "good"
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    sizes |= {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 8}
    labels = dict(enumerate(NAMES))
    config = Wav2Vec2Config(**sizes, conv_dim=(16,) * 7, id2label=labels, label2id={v: k for k, v in labels.items()})
    Wav2Vec2ForSequenceClassification(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return folder


@pytest.fixture
def model(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "model"))


def nested(**settings: Any) -> Callable[[Path], None]:
    """Turn the classifier into the encoder of one with a pooling head, and change the encoder's settings."""

    def work(folder: Path) -> None:
        encoder = json.loads((folder / "config.json").read_text()) | settings
        auto_map = {"AutoConfig": "speech_classifier.SpeechClassifierConfig"}
        config = {"model_type": "ser_ft_speech", "encoder": encoder, "id2label": encoder["id2label"]}
        (folder / "config.json").write_text(json.dumps(config | {"auto_map": auto_map}))

    return work


def change(folder: Path, file: str = "config.json", **settings: Any) -> None:
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**content, **settings}))


def relabel(**names: Any) -> Callable[[Path], None]:
    labels = {str(number): name for number, name in enumerate(NAMES)}
    return lambda folder: change(folder, id2label={**labels, **{k[1:]: v for k, v in names.items()}})


def settings(file: str = "config.json", **values: Any) -> Callable[[Path], None]:
    return lambda folder: change(folder, file, **values)


def damage(value: float) -> Callable[[Path], None]:
    def work(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        weights["classifier.weight"][:] = value
        weights["projector.bias"][:] = 9.0
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return work


def link(name: str) -> Callable[[Path], None]:
    def work(folder: Path) -> None:
        (folder / name).rename(folder.parent / name)
        (folder / name).symlink_to(f"../{name}")

    return work


def pipe(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


def index(target: str) -> Callable[[Path], None]:
    def work(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": target}}))

    return work


def adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/etc", "peft_type": "LORA"}')


EXTRACTOR = "preprocessor_config.json"
REFUSED = {
    "two classes of one name": (relabel(_2="angry"), "two of its classes are named 'angry'"),
    "names that differ in case": (relabel(_2="Angry "), "'angry' and 'Angry '"),
    "a class named as a column": (relabel(_2="path"), "name of a column"),
    "a class without a name": (relabel(_2=""), "not the name of a class"),
    "missing class numbers": (relabel(_7="bored"), "not numbered from 0 to 4"),
    "a billion classes": (settings(num_labels=10**9), "num_labels"),
    "a threshold that is no number": (settings(uncertain_below=math.nan), "uncertain_below"),
    "NaN in the weights": (damage(math.nan), "not finite"),
    "infinite weights": (damage(math.inf), "not finite"),
    "answers that overflow": (damage(3e38), "output is not a finite number"),
    "code of its own": (settings(auto_map={"AutoConfig": "code.Config"}, model_type="evil"), "auto_map"),
    "code beside a known family": (settings(auto_map={"AutoConfig": "code.Config"}), "auto_map"),
    "a feature extractor with code": (settings(EXTRACTOR, auto_map={"AutoFeatureExtractor": "code.X"}), "auto_map"),
    "an unknown network of ser_ft": (settings(model_type="ser_ft_evil", auto_map={"AutoConfig": "c.C"}), "cannot load"),
    "an encoder with code": (nested(auto_map={"AutoConfig": "code.Config"}), "auto_map"),
    "a quantized encoder": (nested(quantization_config={"quant_method": "gptq"}), "quantized"),
    "an encoder with attention from a repository": (nested(_attn_implementation="evil/kernel"), "attention"),
    "a huge encoder": (nested(hidden_size=10**6, intermediate_size=10**6), "weights"),
    "an encoder with a million layers": (nested(num_hidden_layers=10**6), "num_hidden_layers"),
    "an encoder with a frame per sample": (nested(conv_stride=[1] * 7), "conv_stride"),
    "an encoder of an unknown family": (nested(model_type="evil"), "evil is not a speech classifier"),
    "an encoder that is a text model": (nested(model_type="bert"), "bert is not a speech classifier"),
    "an encoder inside an encoder": (nested(model_type="ser_ft_speech"), "ser_ft_speech is not a speech classifier"),
    "an encoder with a family that is no text": (nested(model_type=["bert"]), "not a speech classifier"),
    "no encoder": (settings(model_type="ser_ft_speech", encoder=None), "does not describe an encoder"),
    "layers that the encoder lacks": (
        settings(model_type="ser_ft_speech", encoder={"model_type": "wav2vec2"}, layers=[77]),
        "layers must be numbers from 0 to 12",
    ),
    "another feature extractor": (settings(EXTRACTOR, feature_extractor_type="ClapFeatureExtractor"), "not one for"),
    "attention from a repository": (settings(attn_implementation="evil/kernel"), "attention"),
    "a weights file elsewhere": (settings(transformers_weights="../secret.safetensors"), "weights file"),
    "quantized weights": (settings(quantization_config={"quant_method": "gptq"}), "quantized"),
    "an adapter for another model": (adapter, "adapter"),
    "a huge hidden size": (settings(hidden_size=10**6, intermediate_size=10**6), "weights"),
    "a negative size": (settings(hidden_size=-16), "cannot load"),
    "a million layers": (settings(num_hidden_layers=10**6), "num_hidden_layers"),
    "too many digits": (settings(hidden_size=10**400), "hidden_size"),
    "long lists": (settings(conv_dim=[16] * 5000), "conv_dim"),
    "a frame per sample": (settings(conv_stride=[1] * 7), "conv_stride"),
    "a stride of 0": (settings(conv_stride=[5, 2, 2, 2, 2, 2, 0]), "conv_stride"),
    "a sampling rate of 1e8": (settings(EXTRACTOR, sampling_rate=10**8), "sampling_rate"),
    "an hour per clip": (
        settings(EXTRACTOR, feature_extractor_type="WhisperFeatureExtractor", chunk_length=3600),
        "chunk_length",
    ),
    "spectra of 1e8 points": (
        settings(EXTRACTOR, feature_extractor_type="WhisperFeatureExtractor", n_fft=10**8),
        "n_fft",
    ),
    "deeply nested settings": (lambda folder: (folder / "config.json").write_text("[" * 10**5), "nested"),
    "a config.json elsewhere": (link("config.json"), "link to a file outside"),
    "weights elsewhere": (link("model.safetensors"), "link to a file outside"),
    "a pipe": (pipe, "not a file"),
    "an index to elsewhere": (index("../model.safetensors"), "does not name"),
    "an index to a pickle": (index("pytorch_model.bin"), "does not name"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_hostile_or_damaged_model_is_refused_in_one_line(case: str, model: Path) -> None:
    spoil, message = REFUSED[case]
    spoil(model)
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=message) as error:
        PretrainedClassifier.load(str(model))
    assert "\n" not in str(error.value)
    assert time.monotonic() - start < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000, "in KB"


@pytest.mark.parametrize("case", ["code of its own", "NaN in the weights", "a huge hidden size", "weights elsewhere"])
def test_training_does_not_start_from_a_hostile_or_damaged_encoder(case: str, model: Path) -> None:
    spoil, message = REFUSED[case]
    spoil(model)
    with pytest.raises(InputError, match=message):
        load_encoder(find_encoder(str(model), NAMES[::-1]))


def test_a_saved_network_does_not_name_a_backbone_elsewhere(tmp_path: Path) -> None:
    config = {"model_type": "ser_ft_spectrogram", "backbone": f"local-dir:{tmp_path}", "feature_size": 64}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="the name of a network of timm"):
        PretrainedClassifier.load(str(tmp_path))


def test_absurd_sizes_of_our_own_features_are_refused_before_memory_is_taken() -> None:
    for name, value in {"win_length": 10**8, "n_fft": 10**8, "n_mels": 10**8, "hop_length": 1.5}.items():
        with pytest.raises(InputError, match=name):
            build_model("mfcc-cnn", NAMES, {name: value}, {})


def test_pickled_weights_are_loaded_only_on_request(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    assert main(["predict", str(model), "--model", str(model)]) == 2
    error = capsys.readouterr().err
    assert "--allow-pickle" in error
    assert "model.allow_pickle: true" in error
    assert PretrainedClassifier.load(str(model), allow_pickle=True).classes == NAMES
    load_encoder(find_encoder(str(model), NAMES, allow_pickle=True))
    with pytest.raises(InputError, match="--allow-pickle"):
        load_encoder(find_encoder(str(model), NAMES))


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


def test_a_pickle_runs_no_code_even_on_request(model: Path, tmp_path: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Bomb(tmp_path / "ran")}))
    with pytest.raises(InputError, match=r"damaged|cannot load"):
        PretrainedClassifier.load(str(model), allow_pickle=True)
    assert not (tmp_path / "ran").exists()


def test_resuming_a_run_from_elsewhere_runs_no_code(tmp_path: Path) -> None:
    network = torch.nn.Linear(2, 2)
    checkpoints = Checkpoints(Accelerator(cpu=True), RunFolder(tmp_path / "run"), network, {"weight", "bias"})
    checkpoints.register("ema", EMA(network, {"weight"}, 0.9))
    checkpoints.save(1, {"step": 1})
    assert checkpoints.load() == {"step": 1}
    files = [file for file in checkpoints.paths[0].iterdir() if file.suffix in (".pt", ".bin", ".pkl")]
    assert len(files) >= 2
    for number, file in enumerate(files):
        complete = file.read_bytes()
        file.write_bytes(pickle.dumps(Bomb(tmp_path / f"ran{number}")))
        with suppress(InputError):
            checkpoints.load()
        file.write_bytes(complete)
    assert not list(tmp_path.glob("ran*"))
    (checkpoints.paths[0] / "ema.pt").write_bytes(b"half")
    with pytest.raises(InputError, match="this checkpoint is damaged"):
        checkpoints.load()


def test_every_command_that_loads_models_has_the_option() -> None:
    parser = make_parser()
    for command in ("predict a", "monitor a", "evaluate a --data b", "export a", "probe a --data b", "demo"):
        assert parser.parse_args([*command.split(), "--allow-pickle"]).allow_pickle
    assert read_options(["--allow-pickle"]).allow_pickle


def test_classes_and_answers_are_checked_in_one_place() -> None:
    assert check_classes("m", ["ärger", "Freude"]) == ("ärger", "Freude")
    with pytest.raises(InputError, match="two of its classes"):
        check_classes("m", ["a\u0308rger", "ärger"])
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(NotFiniteError, match="m: its output is not a finite number"):
            to_probabilities(torch.tensor([[0.0, bad]]).numpy(), (1, 2), name="m")
    with pytest.raises(InputError, match="does not fit its class names"):
        to_probabilities(torch.zeros(1, 3).numpy(), (1, 2))


def test_nobody_is_asked_on_a_terminal_whether_code_may_run(good: Path, tmp_path: Path) -> None:
    ran, folders = tmp_path / "ran", []
    for file in ("config.json", EXTRACTOR):
        folder = Path(shutil.copytree(good, tmp_path / file.split(".")[0]))
        (folder / "code.py").write_text(f"open({str(ran)!r}, 'w')\nclass Config: pass\n")
        auto_map = {"AutoConfig": "code.Config", "AutoFeatureExtractor": "code.Config"}
        change(folder, file, auto_map=auto_map, model_type="evil", feature_extractor_type="Evil")
        folders.append(str(folder))
    process, terminal = pty.fork()
    if process == 0:  # a copy of this process, whose imports are done
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
        for folder in folders:
            print("code", main(["predict", folder, "--model", folder]), flush=True)
        os._exit(0)
    output = b""
    while select.select([terminal], [], [], 60)[0]:
        try:
            output += os.read(terminal, 4096)
        except OSError:
            break
        if b"[y/N]" in output:
            os.write(terminal, b"y\n")
    os.waitpid(process, 0)
    assert output.count(b"code 2") == 2, output
    assert b"y/N" not in output
    assert output.count(b"auto_map") == 2
    assert not ran.exists()
