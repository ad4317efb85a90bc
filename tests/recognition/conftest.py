"""Models that were never trained, and voices to ask them about."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from ser_ft import audio
from ser_ft.export.onnx import write
from ser_ft.inference.backends.base import ModelInfo
from ser_ft.models.pretrained import PretrainedClassifier
from ser_ft.models.registry import build

CLASSES = ("neutral", "happy", "sad", "angry")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder, less all but its model: a small plain-cnn whose answers differ from clip to clip."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(3)
        extractor, model = build("plain-cnn", CLASSES, {}, {"channels": [16, 16]})
        model.classifier.weight.mul_(8)
        clips = torch.randn(8, 16_000) * torch.linspace(0.002, 0.1, 8)[:, None]
        frames, _ = extractor.extract(clips, torch.tensor([16_000] * 8))
        extractor.mean = frames.mean(dim=(0, 1)).tolist()
        extractor.scale = (frames.std(dim=(0, 1)) + 1e-3).tolist()
    model.config.uncertain_below = 0.3
    model.save_pretrained(folder / "model")
    extractor.save_pretrained(folder / "model")
    return folder


@pytest.fixture(scope="session")
def tiny_onnx(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as an .onnx file."""
    file = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    saved = PretrainedClassifier.load(str(tiny_run / "model"))
    write(saved, file, ModelInfo(saved.called, saved.classes, saved.threshold, saved.shortest))
    return file


@pytest.fixture(scope="session")
def voices(miniature_tree: Path) -> list[np.ndarray]:
    """A dozen synthetic voices at 16 kHz, no two of one length. To be read, never changed."""
    files = sorted(miniature_tree.rglob("*.wav"))
    whole = [audio.decode(file) for file in files[:: len(files) // 12][:12]]
    return [voice[: len(voice) - 160 * place] for place, voice in enumerate(whole)]


@pytest.fixture
def tree(voices: list[np.ndarray], tmp_path: Path) -> Path:
    """A folder of WAV files and of folders of them."""
    top = tmp_path / "recordings"
    for place, voice in enumerate(voices[:6]):
        folder = top if place < 2 else top / f"actor {place // 3}"
        folder.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / f"clip {place}.wav", voice, audio.SAMPLE_RATE)
    return top
