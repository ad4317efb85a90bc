"""`ser-ft export`: a file with the same probabilities as the model, or none at all."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile
import torch
import yaml
from transformers.utils import logging

from ser_ft import audio
from ser_ft.cli import main
from ser_ft.export import onnx as module
from ser_ft.export.onnx import ExportResult, export_onnx
from ser_ft.inference.backends.onnx import OnnxBackend
from ser_ft.inference.backends.torch import TorchBackend
from ser_ft.models.encoder_spec import find_encoder
from ser_ft.models.encoders import load_encoder
from ser_ft.models.pretrained import PretrainedClassifier
from ser_ft.models.registry import build_model
from ser_ft.utils.errors import InputError
from tests.helpers.tiny_encoders import FAMILIES, VARIANTS, write_tiny_backbone

CLASSES = ("neutral", "happy", "sad", "angry")
RESNET = "timm/test_resnet.r160_in1k"
NETWORKS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "plain-cnn": ("plain-cnn", {}, {}),
    "compact-cnn": ("compact-cnn", {}, {"channels": 16, "squeeze_reduction": 4}),
    "lstm": ("lstm", {}, {"hidden_size": 16}),
    "an image backbone": (RESNET, {}, {}),
    "mfcc-cnn": ("mfcc-cnn", {"normalize": "clip"}, {}),
    "conv1d": ("conv1d", {"normalize": "speaker", "max_frames": 90}, {}),
    "residual-cnn": ("residual-cnn", {"normalize": "clip-mean"}, {}),
    "wide-cnn": ("wide-cnn", {"hop_length": 128}, {}),
    "patches": (RESNET, {}, {"patch_frames": 96}),
    "EfficientNet": ("timm/test_efficientnet.r160_in1k", {}, {}),
    "ConvNeXt": ("timm/test_convnext", {}, {}),
    "AlexNet": ("torchvision/alexnet", {}, {}),
}
FAST = ("plain-cnn", "compact-cnn", "lstm")


@pytest.fixture(scope="module")
def sounds(voices: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of clips of 0.4 to 4 s, of as many different lengths."""
    folder = tmp_path_factory.mktemp("sounds")
    for index, voice in enumerate(voices[:8]):
        clip = np.resize(voice, 6400 + 7321 * index)
        soundfile.write(folder / f"{index}.wav", clip, audio.SAMPLE_RATE, subtype="FLOAT")
    return folder


def save(name: str, features: dict[str, Any], network: dict[str, Any], folder: Path) -> Path:
    """Save a network with random weights and its fitted extractor."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(1)
        extractor, model = build_model(name, CLASSES, features, network, pretrained=False)
        model.classifier.weight.mul_(4)
        frames, _ = extractor.extract(torch.randn(4, 16_000) * 0.05, torch.tensor([16_000] * 4))
    extractor.mean = frames.mean(dim=(0, 1)).tolist()
    extractor.scale = (frames.std(dim=(0, 1)) + 1e-3).tolist()
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[] if case in FAST else pytest.mark.slow) for case in NETWORKS]
)
def test_own_networks_give_the_same_probabilities(case: str, sounds: Path, tmp_path: Path) -> None:
    name, features, network = NETWORKS[case]
    folder = save(name, features, network, tmp_path / "model")
    result = export_onnx(folder, tmp_path / "a.onnx", data=sounds, tolerance=5e-5, verbose=False)
    assert (result.clips, result.agreement, result.source) == (8, 1.0, str(sounds))
    assert_batches_agree(result, folder, sounds)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [*FAMILIES, *VARIANTS, "whisper attentive", "whisper stock", "whisper stock of others", "wav2vec2 statistics"],
)
def test_speech_encoders_give_the_same_probabilities(case: str, sounds: Path, tmp_path: Path) -> None:
    """Of all families, with the features of each inside; SEW's frames go in pairs, and one may be left over."""
    logging.disable_progress_bar()
    family, _, head = case.removesuffix(" of others").partition(" ")
    encoder = find_encoder(str(write_tiny_backbone(family, tmp_path / "backbone")), CLASSES, head=head or None)
    if case.endswith(" of others"):
        encoder.config.clip_length = None  # ser_ft did not train it: clips are padded to a fixed length
    folder = tmp_path / "model"
    torch.default_generator.manual_seed(0)  # the head's weights are random
    load_encoder(encoder).save_pretrained(folder)
    encoder.extractor.save_pretrained(folder)
    result = export_onnx(folder, tmp_path / "a.onnx", data=sounds, tolerance=1e-4, verbose=False)
    assert_batches_agree(result, folder, sounds)


def assert_batches_agree(result: ExportResult, folder: Path, sounds: Path, tolerance: float = 1e-4) -> None:
    """Check batches of 1 and of 7 clips, of lengths other than in the export."""
    exported, reference = OnnxBackend(result.path), TorchBackend(str(folder), "cpu")
    assert exported.info == replace(reference.info, name=exported.info.name)
    clips = [audio.decode(sounds / f"{index}.wav") for index in range(7)]
    for length in (8000, 8161, 16_320, 45_001):
        batch = np.stack([np.resize(clip, length) for clip in clips])
        probabilities = exported.probabilities(batch)
        single = np.concatenate([exported.probabilities(clip[None]) for clip in batch])
        assert np.abs(probabilities - single).max() < 1e-5
        assert np.abs(probabilities - reference.probabilities(batch)).max() < tolerance
    assert probabilities.std(axis=0).max() > 1e-3, "all clips get the same probabilities: nothing is tested"


def test_int8_gives_a_smaller_file_with_exact_features(sounds: Path, tmp_path: Path) -> None:
    """Quantized log-mels would be noise."""
    folder = save("plain-cnn", {}, {}, tmp_path / "model")
    float32 = export_onnx(folder, tmp_path / "whole.onnx", data=sounds, verbose=False)
    int8 = export_onnx(folder, tmp_path / "small.onnx", int8=True, data=sounds, verbose=False)
    weights = 4 * sum(item.numel() for item in PretrainedClassifier.load(str(folder)).model.parameters())
    assert float32.bytes - int8.bytes > 0.65 * weights
    assert float32.difference < 1e-5 < int8.difference < 0.05
    assert_batches_agree(int8, folder, sounds, 0.05)
    kinds = {item.name: item.data_type for item in onnx.load(int8.path).graph.initializer}
    assert onnx.TensorProto.UINT8 in kinds.values()
    assert {kind for name, kind in kinds.items() if name.startswith("frontend.")} == {onnx.TensorProto.FLOAT}


def test_a_file_that_differs_from_the_model_is_not_kept(tiny_run: Path, sounds: Path, tmp_path: Path) -> None:
    message = r"a.onnx: not written: .* from that of the model, and --tolerance is 1e-12$"
    with pytest.raises(InputError, match=message):
        export_onnx(tiny_run, tmp_path / "a.onnx", data=sounds, tolerance=1e-12, verbose=False)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_nothing_behind(
    tiny_run: Path, sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is the file that was there before touched."""
    out = tmp_path / "a.onnx"
    out.write_bytes(b"precious")

    def broken(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(onnx, "save", broken)
    with pytest.raises(OSError, match="full"):
        export_onnx(tiny_run, out, data=sounds, overwrite=True, verbose=False)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("a.onnx", b"precious")]


def test_a_run_is_compared_on_its_own_table_if_it_exists(
    tiny_run: Path, miniature_folder: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    (run / "config.yaml").write_text(yaml.safe_dump({"data": {"prepared": str(miniature_folder)}}))
    result = export_onnx(run, tmp_path / "a.onnx", verbose=False)
    assert (result.source, result.clips) == (str(miniature_folder), module.NUM_CLIPS)
    (run / "config.yaml").write_text(yaml.safe_dump({"data": {"prepared": str(tmp_path / "gone")}}))
    result = export_onnx(run, tmp_path / "b.onnx", verbose=False)
    assert result.source.startswith("synthetic voices")
    assert result.agreement == 1.0


def test_only_the_beginning_of_a_long_recording_is_compared(voices: list[np.ndarray], tmp_path: Path) -> None:
    sound = np.resize(voices[0], 70 * audio.SAMPLE_RATE)
    soundfile.write(tmp_path / "call.wav", sound, audio.SAMPLE_RATE, subtype="FLOAT")
    (clip,) = module._from_files(tmp_path)
    assert np.array_equal(clip, audio.decode(tmp_path / "call.wav")[: 20 * audio.SAMPLE_RATE])


@pytest.mark.parametrize(
    ("message", "model", "out", "data"),
    [
        ("a.bin: the name of an ONNX file must end in .onnx", "run", "a.bin", None),
        ("is a folder, not a file", "run", "folder.onnx", None),
        ("is not a folder", "run", "file/a.onnx", None),
        ("neither a prepared table nor a folder with sound", "run", "a.onnx", "folder.onnx"),
        ("damaged", "damaged", "a.onnx", None),
        ("not a folder, and no such model", "nobody/nothing", "a.onnx", None),
    ],
)
def test_wrong_input_is_one_line(
    message: str,
    model: str,
    out: str,
    data: str | None,
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run").symlink_to(tiny_run)
    shutil.copytree(tiny_run, "damaged")
    Path("damaged", "model", "model.safetensors").write_bytes(b"")
    Path("folder.onnx").mkdir()
    Path("file").touch()
    with pytest.raises(InputError, match=message) as caught:
        export_onnx(model, out, data=data)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob(".*.onnx"))


def test_large_models_and_missing_packages_are_reported(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_WEIGHT_BYTES", 1000)
    with pytest.raises(InputError, match="file holds less than 2"):
        export_onnx(tiny_run, tmp_path / "a.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match="pip install onnx"):
        export_onnx(tiny_run, tmp_path / "a.onnx")


def test_the_command_exports_and_refuses(
    tiny_run: Path, sounds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(tiny_run), "--data", str(sounds)]) == 0
    output = capsys.readouterr().out
    assert output.startswith("written: tiny.onnx (")
    assert f"compared on 8 clips of {sounds}" in output
    assert "same class: 8 of 8" in output
    assert main(["export", str(tiny_run), "--data", str(sounds), "--int8"]) == 0
    assert Path("tiny-int8.onnx").stat().st_size < Path("tiny.onnx").stat().st_size
    Path("tiny.onnx").write_bytes(b"precious")
    assert main(["export", str(tiny_run), "--data", str(sounds)]) == 2
    exists = "an ONNX file already exists; pass --overwrite, or choose another --out"
    assert capsys.readouterr().err == f"ser-ft: tiny.onnx: {exists}\n"
    assert Path("tiny.onnx").read_bytes() == b"precious"
    assert main(["export", str(tiny_run), "--data", str(sounds), "--overwrite"]) == 0
    assert Path("tiny.onnx").stat().st_size > 10_000
    capsys.readouterr()
    assert main(["export", str(tiny_run), "--tolerance", "0"]) == 2
    assert "--tolerance must be above 0" in capsys.readouterr().err
