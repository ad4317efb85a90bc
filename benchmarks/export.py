"""Exactness and speed of exported .onnx files, in fp32 and int8, compared with torch.

    python benchmarks/export.py --model runs/NAME --data data/ravdess

Measured for a trained model, and for a wav2vec2-base of real size with random weights (only speed and exactness).
Each clip is passed alone, from samples to probabilities including features. torch and the two files take turns, on
one thread and on two; the medians over turns are compared. The differences are those of probabilities, over all
clips.
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
    """Write a wav2vec2-base of real size with random weights."""
    torch.manual_seed(0)
    config = Wav2Vec2Config(id2label=dict(enumerate(classes)))
    Wav2Vec2ForSequenceClassification(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=False, do_normalize=True).save_pretrained(folder)
    return folder


def predict_all(backend: Backend, clips: list[np.ndarray]) -> np.ndarray:
    """Return the probabilities of clips, each passed alone, shape (clips, classes)."""
    return np.concatenate([backend.probabilities(clip[None]) for clip in clips])


def export_both(model: str, folder: Path) -> dict[str, Path]:
    """Export a model in fp32 and int8."""
    files = {"onnx": folder / "onnx.onnx", "int8": folder / "int8.onnx"}
    for name, file in files.items():
        write_onnx(PretrainedClassifier.load(model), file, TorchBackend(model, "cpu").info, name == "int8")
    return files


def compare(name: str, model: str, clips: list[np.ndarray], turns: int, folder: Path) -> dict[str, float]:
    """Return all measurements of one model."""
    files = export_both(model, folder)
    results = {f"{name}_{kind}_megabytes": file.stat().st_size / 1e6 for kind, file in files.items()}
    reference = predict_all(TorchBackend(model, "cpu"), clips)
    for kind, file in files.items():
        probabilities = predict_all(OnnxBackend(file), clips)
        results[f"{name}_{kind}_difference"] = float(np.abs(probabilities - reference).max())
        results[f"{name}_{kind}_agreement"] = float((probabilities.argmax(axis=1) == reference.argmax(axis=1)).mean())
    for threads in THREADS:
        backends: dict[str, Backend] = {"torch": TorchBackend(model, "cpu", threads)}
        backends |= {kind: OnnxBackend(file, threads) for kind, file in files.items()}
        seconds = np.median([[timed(backend, clips) for backend in backends.values()] for _ in range(turns)], axis=0)
        for kind, duration in zip(backends, seconds, strict=True):
            results[f"{name}_{kind}_ms_a_clip_{threads}_threads"] = 1000 * duration / len(clips)
        for kind, duration in list(zip(backends, seconds, strict=True))[1:]:
            results[f"{name}_{kind}_over_torch_{threads}_threads"] = seconds[0] / duration
    return results


def timed(backend: Backend, clips: list[np.ndarray]) -> float:
    """Return the seconds of wall time that a backend takes for clips, after a first one."""
    backend.probabilities(clips[0][None])
    start = time.perf_counter()
    predict_all(backend, clips)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a run folder, or a folder with a saved classifier")
    parser.add_argument("--data", type=Path, required=True, help="a prepared table, such as that of RAVDESS")
    parser.add_argument(
        "--clips", type=int, default=240, help="number of clips, evenly spaced; a 20th of them for wav2vec2-base"
    )
    parser.add_argument("--turns", type=int, default=5, help="number of turns")
    parser.add_argument("--without-wav2vec2", action="store_true", help="measure only the model")
    args = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    table = open_prepared(args.data)
    rows = np.linspace(0, len(table) - 1, min(args.clips, len(table))).astype(int)
    clips = [audio.from_wav(sound["bytes"]) for sound in table[rows.tolist()]["audio"]]
    model, results = str(find_model_folder(Path(args.model)) or args.model), {}
    with tempfile.TemporaryDirectory() as folder:
        results |= compare("model", model, clips, args.turns, Path(folder))
        if not args.without_wav2vec2:
            random = str(save_random_wav2vec2(Path(folder, "random"), table.features["emotion"].names))
            results |= compare("random_wav2vec2_base", random, clips[::20], args.turns, Path(folder))
    seconds = float(np.mean([len(clip) for clip in clips])) / audio.SAMPLE_RATE
    print(f"{len(clips)} clips of {args.data.name}, {seconds:.2f} s each; the median of {args.turns} turns")
    print(f"torch {torch.__version__}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for name, value in results.items():
        print(f"{name}: {value:.3g}")


if __name__ == "__main__":
    main()
