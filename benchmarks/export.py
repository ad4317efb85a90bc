"""How near an .onnx file's answers are to the model's own, and how fast it is: fp32 and 8 bits, against torch.

    python benchmarks/export.py --model runs/NAME --data data/ravdess

Of a trained model, and of a wav2vec2-base of true size with random weights, of which only speed and exactness are
told: it recognises nothing. Each clip is asked about alone, from samples to probabilities, features and all; torch and
the two files take turns, on one thread and on two, and the medians over turns are compared. The differences are of
probabilities, over all clips.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForSequenceClassification
from transformers.utils import logging

from ser_ft import audio
from ser_ft.data.prepare import open_prepared
from ser_ft.evaluation.run_folder import find_model_folder
from ser_ft.export.onnx import write_onnx
from ser_ft.inference.backends import Backend
from ser_ft.inference.backends.onnx import OnnxBackend
from ser_ft.inference.backends.torch import TorchBackend
from ser_ft.models.pretrained import PretrainedClassifier

THREADS = (1, 2)


def save_random_wav2vec2(folder: Path, classes: list[str]) -> Path:
    """Write a wav2vec2-base of true size with random weights."""
    torch.manual_seed(0)
    config = Wav2Vec2Config(id2label=dict(enumerate(classes)))
    Wav2Vec2ForSequenceClassification(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=False, do_normalize=True).save_pretrained(folder)
    return folder


def answers(engine: Backend, clips: list[np.ndarray]) -> np.ndarray:
    """Return the probabilities of clips, each asked about alone, shape (clips, classes)."""
    return np.concatenate([engine.probabilities(clip[None]) for clip in clips])


def write_both(model: str, folder: Path) -> dict[str, Path]:
    """Write both files of a model."""
    files = {"onnx": folder / "onnx.onnx", "int8": folder / "int8.onnx"}
    for name, file in files.items():
        write_onnx(PretrainedClassifier.load(model), file, TorchBackend(model, "cpu").info, name == "int8")
    return files


def compare(name: str, model: str, clips: list[np.ndarray], turns: int, folder: Path) -> dict[str, float]:
    """Return all figures of one model."""
    files = write_both(model, folder)
    figures = {f"{name}_{kind}_megabytes": file.stat().st_size / 1e6 for kind, file in files.items()}
    own = answers(TorchBackend(model, "cpu"), clips)
    for kind, file in files.items():
        found = answers(OnnxBackend(file), clips)
        figures[f"{name}_{kind}_difference"] = float(np.abs(found - own).max())
        figures[f"{name}_{kind}_agreement"] = float((found.argmax(axis=1) == own.argmax(axis=1)).mean())
    for threads in THREADS:
        engines: dict[str, Backend] = {"torch": TorchBackend(model, "cpu", threads)}
        engines |= {kind: OnnxBackend(file, threads) for kind, file in files.items()}
        seconds = np.median([[timed(engine, clips) for engine in engines.values()] for _ in range(turns)], axis=0)
        for kind, took in zip(engines, seconds, strict=True):
            figures[f"{name}_{kind}_ms_a_clip_{threads}_threads"] = 1000 * took / len(clips)
        for kind, took in list(zip(engines, seconds, strict=True))[1:]:
            figures[f"{name}_{kind}_over_torch_{threads}_threads"] = seconds[0] / took
    return figures


def timed(engine: Backend, clips: list[np.ndarray]) -> float:
    """Return the seconds on the clock that an engine takes for clips, once it has answered one."""
    engine.probabilities(clips[0][None])
    start = time.perf_counter()
    answers(engine, clips)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a run folder, or a folder with a saved classifier")
    parser.add_argument("--data", type=Path, required=True, help="a prepared table, such as RAVDESS's")
    parser.add_argument("--clips", type=int, default=240, help="of the table, spread over it; of wav2vec2-base, a 20th")
    parser.add_argument("--turns", type=int, default=5, help="that each takes")
    parser.add_argument("--without-wav2vec2", action="store_true", help="only the model")
    chosen = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    table = open_prepared(chosen.data)
    rows = np.linspace(0, len(table) - 1, min(chosen.clips, len(table))).astype(int)
    clips = [audio.from_wav(sound["bytes"]) for sound in table[rows.tolist()]["audio"]]
    model, figures = str(find_model_folder(Path(chosen.model)) or chosen.model), {}
    with tempfile.TemporaryDirectory() as folder:
        figures |= compare("model", model, clips, chosen.turns, Path(folder))
        if not chosen.without_wav2vec2:
            random = str(save_random_wav2vec2(Path(folder, "random"), table.features["emotion"].names))
            figures |= compare("random_wav2vec2_base", random, clips[::20], chosen.turns, Path(folder))
    seconds = float(np.mean([len(clip) for clip in clips])) / audio.SAMPLE_RATE
    print(f"{len(clips)} clips of {chosen.data.name}, {seconds:.2f} s each; the median of {chosen.turns} turns")
    print(f"torch {torch.__version__}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for name, value in figures.items():
        print(f"{name}: {value:.3g}")


if __name__ == "__main__":
    main()
