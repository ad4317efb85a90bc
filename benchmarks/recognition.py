"""How fast emotions are recognised in files, against the stock pipeline and against the loop that notebooks use.

    ser-ft export runs/mine --out mine.onnx
    python benchmarks/recognition.py --data recordings/ --model runs/mine --onnx mine.onnx

All start from files and end with probabilities. Ours: `EmotionRecognizer` with the run (torch) and with its .onnx file,
file by file, and all files in one call. The stock pipeline: soundfile, then `transformers.pipeline` on the same model,
file by file, and with batches of 8. The loop: for each file `librosa.load`, `librosa.feature.melspectrogram`, and one
answer of a small convolutional network with as many parameters, in torch; it stands for the Keras model of notebooks.
They take turns; medians are compared. Ours also tells where speech is, which the others do not.

Cold start: `ser-ft predict FILE`, from the start of the process to its end, the median of seven.
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
MELS = 128
COMPARED = (("onnx_single", "pipeline_single"), ("onnx_single", "librosa_loop"), ("onnx_many", "pipeline_batches"))


def stock(pipe: Pipeline, batch: int) -> Callable[[Sequence[Path]], list[dict[str, float]]]:
    """Return what answers files through the stock pipeline."""

    def answer(files: Sequence[Path]) -> list[dict[str, float]]:
        sounds = [soundfile.read(file, dtype="float32", always_2d=True) for file in files]
        given = [{"raw": sound.mean(axis=1), "sampling_rate": rate} for sound, rate in sounds]
        found = pipe(given, batch_size=batch) if batch > 1 else [pipe(one) for one in given]
        return [{each["label"]: each["score"] for each in one} for one in found]

    return answer


def loop(parameters: int) -> Callable[[Sequence[Path]], list[list[float]]]:
    """Return what answers files as notebooks do, with a network of about so many parameters."""
    width = next(c for c in range(8, 4096) if 5 * (MELS * c + 3 * c * c) >= parameters)
    layers = [layer for size in (MELS, width, width, width) for layer in (nn.Conv1d(size, width, 5), nn.ReLU())]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(width, 8), nn.Softmax(-1)).eval()

    def answer(files: Sequence[Path]) -> list[list[float]]:
        found = []
        for file in files:
            sound, rate = librosa.load(file)
            mel = librosa.power_to_db(librosa.feature.melspectrogram(y=sound, sr=rate, n_mels=MELS))
            with torch.no_grad():
                found.append(network(torch.from_numpy(mel)[None]).squeeze(0).tolist())
        return found

    return answer


def timed(work: Callable[[], object]) -> np.ndarray:
    """Return the seconds on the clock, and those of the processor, in all threads and in processes that ended."""
    began = time.perf_counter(), sum(os.times()[:4])
    work()
    return np.array([time.perf_counter() - began[0], sum(os.times()[:4]) - began[1]])


def command(file: Path, model: str) -> None:
    arguments = [sys.executable, "-m", "ser_ft.cli", "predict", str(file), "--model", model]
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder of sound files")
    parser.add_argument("--model", required=True, help="a run folder")
    parser.add_argument("--onnx", required=True, help="what `ser-ft export` made of it")
    parser.add_argument("--clips", type=int, default=64, help="spread over the folder")
    parser.add_argument("--turns", type=int, default=5, help="that each takes")
    parser.add_argument("--threads", type=int, help="that each may use (default: what each takes by itself)")
    chosen = parser.parse_args()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    there = [Path(found.path) for found in find_sound_files([chosen.data])]
    files = [there[place] for place in np.linspace(0, len(there) - 1, min(chosen.clips, len(there))).astype(int)]
    by_torch = EmotionRecognizer(chosen.model, device="cpu", threads=chosen.threads)
    by_onnx = EmotionRecognizer(chosen.onnx, threads=chosen.threads)
    pipe = pipeline("audio-classification", model=str(Path(chosen.model, "model")), top_k=None, device="cpu")
    parameters = pipe.model.num_parameters()
    works: dict[str, Callable[[Sequence[Path]], object]] = {
        "onnx_single": lambda some: [by_onnx(file) for file in some],
        "onnx_many": by_onnx,
        "torch_single": lambda some: [by_torch(file) for file in some],
        "torch_many": by_torch,
        "pipeline_single": stock(pipe, 1),
        "pipeline_batches": stock(pipe, BATCH),
        "librosa_loop": loop(parameters),
    }
    for work in works.values():
        work(files[:4])
    turns = [[timed(partial(work, files)) for work in works.values()] for _ in range(chosen.turns)]
    taken = dict(zip(works, np.median(turns, axis=0), strict=True))
    ours, theirs = by_onnx(files), stock(pipe, 1)(files)
    apart = max(abs(a["scores"][name] - share) for a, b in zip(ours, theirs, strict=True) for name, share in b.items())
    sound = sum(answer["duration"] for answer in ours)
    start = np.median([timed(lambda: command(files[0], chosen.onnx)) for _ in range(PROCESSES)], axis=0)
    print(f"{len(files)} files, {sound / 60:.1f} minutes; {parameters} parameters; the median of {chosen.turns} turns")
    print(f"{chosen.threads or 'own'} threads on {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"largest_difference_from_pipeline: {apart:.2g}")
    for name, (wall, cpu) in taken.items():
        print(f"{name}_ms_a_clip: {1000 * wall / len(files):.2f}; of the processor {1000 * cpu / len(files):.2f}")
    for name, (wall, cpu) in taken.items():
        print(f"{name}_real_time_factor: {wall / sound:.5f}; of the processor {cpu / sound:.5f}")
    for one, other in COMPARED:
        wall, cpu = taken[other] / taken[one]
        print(f"{one}_times_faster_than_{other}: {wall:.2f}; of the processor {cpu:.2f}")
    print(f"cold_start_s: {start[0]:.2f}; of the processor {start[1]:.2f}")


if __name__ == "__main__":
    main()
