"""Speed of emotion recognition in files, compared with the stock pipeline and with a loop as in notebooks.

    ser-ft export runs/mine --out mine.onnx
    python benchmarks/recognition.py --data recordings/ --model runs/mine --onnx mine.onnx

All start from files and end with probabilities. Ours: `EmotionRecognizer` with the run (torch) and with its .onnx
file, file by file, and all files in one call. The stock pipeline: soundfile, then `transformers.pipeline` with the
same model, file by file, and in batches of 8. The loop: for each file `librosa.load`,
`librosa.feature.melspectrogram`, and a small convolutional network with the same number of parameters, in torch, in
place of the Keras model of notebooks. They take turns; medians are compared. Only ours also detects speech.

Cold start: `ser-ft predict FILE`, from the start of the process to its end, median of seven.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import librosa
import numpy as np
import soundfile
import torch
from torch import nn
from transformers import Pipeline, pipeline

from ser_ft.audio.discovery import find_sound_files
from ser_ft.inference.recognizer import EmotionRecognizer

PROCESSES = 7
BATCH = 8
N_MELS = 128
COMPARED = (("onnx_single", "pipeline_single"), ("onnx_single", "librosa_loop"), ("onnx_many", "pipeline_batches"))


def stock(pipe: Pipeline, batch: int) -> Callable[[Sequence[Path]], list[dict[str, float]]]:
    """Return a function that predicts files with the stock pipeline."""

    def answer(files: Sequence[Path]) -> list[dict[str, float]]:
        sounds = [soundfile.read(file, dtype="float32", always_2d=True) for file in files]
        inputs = [{"raw": sound.mean(axis=1), "sampling_rate": rate} for sound, rate in sounds]
        outputs = pipe(inputs, batch_size=batch) if batch > 1 else [pipe(item) for item in inputs]
        return [{label["label"]: label["score"] for label in output} for output in outputs]

    return answer


def loop(parameters: int) -> Callable[[Sequence[Path]], list[list[float]]]:
    """Return a function that predicts files as in notebooks, with a network of about `parameters` parameters."""
    width = next(c for c in range(8, 4096) if 5 * (N_MELS * c + 3 * c * c) >= parameters)
    layers = [layer for size in (N_MELS, width, width, width) for layer in (nn.Conv1d(size, width, 5), nn.ReLU())]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(width, 8), nn.Softmax(-1)).eval()

    def answer(files: Sequence[Path]) -> list[list[float]]:
        rows = []
        for file in files:
            sound, rate = librosa.load(file)
            mel = librosa.power_to_db(librosa.feature.melspectrogram(y=sound, sr=rate, n_mels=N_MELS))
            with torch.no_grad():
                rows.append(network(torch.from_numpy(mel)[None]).squeeze(0).tolist())
        return rows

    return answer


def timed(work: Callable[[], object]) -> np.ndarray:
    """Return seconds of wall time, and of CPU time in all threads and in finished processes."""
    start = time.perf_counter(), sum(os.times()[:4])
    work()
    return np.array([time.perf_counter() - start[0], sum(os.times()[:4]) - start[1]])


def command(file: Path, model: str) -> None:
    arguments = [sys.executable, "-m", "ser_ft.cli", "predict", str(file), "--model", model]
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder of sound files")
    parser.add_argument("--model", required=True, help="a run folder")
    parser.add_argument("--onnx", required=True, help="the run's file from `ser-ft export`")
    parser.add_argument("--clips", type=int, default=64, help="number of files, evenly spaced")
    parser.add_argument("--turns", type=int, default=5, help="number of turns")
    parser.add_argument("--threads", type=int, help="number of threads of each (default: its own default)")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    available = [Path(sound.path) for sound in find_sound_files([args.data])]
    files = [
        available[index] for index in np.linspace(0, len(available) - 1, min(args.clips, len(available))).astype(int)
    ]
    by_torch = EmotionRecognizer(args.model, device="cpu", threads=args.threads)
    by_onnx = EmotionRecognizer(args.onnx, threads=args.threads)
    pipe = pipeline("audio-classification", model=str(Path(args.model, "model")), top_k=None, device="cpu")
    parameters = pipe.model.num_parameters()
    methods: dict[str, Callable[[Sequence[Path]], object]] = {
        "onnx_single": lambda paths: [by_onnx(file) for file in paths],
        "onnx_many": by_onnx,
        "torch_single": lambda paths: [by_torch(file) for file in paths],
        "torch_many": by_torch,
        "pipeline_single": stock(pipe, 1),
        "pipeline_batches": stock(pipe, BATCH),
        "librosa_loop": loop(parameters),
    }
    for work in methods.values():
        work(files[:4])
    turns = [[timed(partial(work, files)) for work in methods.values()] for _ in range(args.turns)]
    medians = dict(zip(methods, np.median(turns, axis=0), strict=True))
    ours, expected = by_onnx(files), stock(pipe, 1)(files)
    largest_difference = max(
        abs(a["scores"][name] - score) for a, b in zip(ours, expected, strict=True) for name, score in b.items()
    )
    sound = sum(answer["duration"] for answer in ours)
    start = np.median([timed(lambda: command(files[0], args.onnx)) for _ in range(PROCESSES)], axis=0)
    print(f"{len(files)} files, {sound / 60:.1f} minutes; {parameters} parameters; the median of {args.turns} turns")
    print(f"{args.threads or 'default'} threads on {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"largest_difference_from_pipeline: {largest_difference:.2g}")
    for name, (wall, cpu) in medians.items():
        print(f"{name}_ms_a_clip: {1000 * wall / len(files):.2f}; CPU {1000 * cpu / len(files):.2f}")
    for name, (wall, cpu) in medians.items():
        print(f"{name}_real_time_factor: {wall / sound:.5f}; CPU {cpu / sound:.5f}")
    for ours_name, other in COMPARED:
        wall, cpu = medians[other] / medians[ours_name]
        print(f"{ours_name}_times_faster_than_{other}: {wall:.2f}; CPU {cpu:.2f}")
    print(f"cold_start_s: {start[0]:.2f}; CPU {start[1]:.2f}")


if __name__ == "__main__":
    main()
