"""Whisper at the clip's own length: its speed, compared with transformers, and the agreement of its answers.

    ser-ft prepare ravdess=FOLDER --out data/ravdess
    python benchmarks/whisper.py speed openai/whisper-base --data data/ravdess
    python benchmarks/whisper.py agreement runs/whisper-base --data data/ravdess

`speed`: a training step, recognition of a clip, and `ser-ft probe`, against the same work with transformers, on all
cores. The peers are transformers' `Trainer`, set up as in its audio classification example (each clip padded to 30 s,
float32) and with the encoder cut to 5 s in bf16, and its `pipeline`, for both lengths. The systems take turns: one
after the other in each turn of the training, and for each clip of the recognition, which starts from samples in memory.
Only ours also detects speech. The probe is the complete command, with an empty cache, from the start of its process.

`agreement`: the probabilities of clips alone, against those in a batch with longer clips, from the exported .onnx files
(float32, and 8-bit weights), from a stream that is fed a tenth of a second at a time, and from transformers' `pipeline`
in a process that cannot import ser_ft. That process runs the code that is saved with the model, if there is any. The
pipeline pads the clips of a stock head to its fixed length.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import datasets
import numpy as np
import torch
from finetune_step import Result, Settings, run_trainer, train_with_ser_ft
from probe import write_part
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, pipeline
from transformers.utils import logging

from ser_ft import EmotionRecognizer, audio
from ser_ft.audio import SAMPLE_RATE
from ser_ft.audio.filters import HighPass
from ser_ft.data.prepare import open_prepared
from ser_ft.evaluation.run_folder import find_model_folder
from ser_ft.export.onnx import export_onnx
from ser_ft.models.collation import collate_waveforms
from ser_ft.models.encoder_spec import find_encoder
from ser_ft.models.encoders import EncoderParts, load_encoder
from ser_ft.models.outputs import to_probabilities
from ser_ft.models.pretrained import PretrainedClassifier
from ser_ft.models.whisper import POSITIONS_PER_SECOND

BATCH = 16
SHORT_SECONDS = 5
SYSTEMS = {"stock": "ser_ft, stock head", "statistics": "ser_ft, statistics head"}
TRAINER, TRAINER_SHORT = "transformers' Trainer, 30 s, float32", "transformers' Trainer, 5 s, bf16"
TORCH, ONNX, INT8 = "ser_ft, PyTorch", "ser_ft, ONNX", "ser_ft, ONNX with --int8"
PIPELINE, PIPELINE_SHORT = "transformers' pipeline, 30 s", "transformers' pipeline, 5 s"
CHUNK = SAMPLE_RATE // 10
# Run in a process of its own: a folder with a model, and a file of clips; prints a list of {class: probability}.
PIPELINE_ALONE = """
import json, sys
sys.modules["ser_ft"] = None  # importing it fails
import numpy as np
from transformers import pipeline
from transformers.utils import logging
logging.set_verbosity_error()
logging.disable_progress_bar()
folder, clips, is_custom = sys.argv[1:]
pipe = pipeline("audio-classification", model=folder, trust_remote_code=is_custom == "True", top_k=None, device="cpu")
with np.load(clips) as sounds:
    answers = [pipe(sounds[name]) for name in sounds]
print(json.dumps([{label["label"]: label["score"] for label in answer} for answer in answers]))
"""


def speed(args: argparse.Namespace) -> None:
    cores = os.cpu_count() or 1
    torch.set_num_threads(cores)
    table = open_prepared(args.data)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        classes = table.features["emotion"].names
        stock = save_classifier(args.encoder, classes, folder / "stock")
        positions = SHORT_SECONDS * POSITIONS_PER_SECOND
        short = save_classifier(args.encoder, classes, folder / "short", max_source_positions=positions)
        print(f"{args.encoder}; {cores} threads, load {os.getloadavg()[0]:.1f} at the start", flush=True)
        steps = training_steps(args, table, stock, short)
        show(f"training step, per clip; batches of {BATCH}", steps, (TRAINER, TRAINER_SHORT))
        clip_seconds = recognition(args, table, stock, short)
        show("recognition, per clip; one clip at a time", clip_seconds, (PIPELINE, PIPELINE_SHORT))
        clips = args.clips or len(table)
        seconds = probe(args, folder, cores)
        forward = median(clip_seconds[PIPELINE])
        print(
            f"\nser-ft probe of {clips} clips, whole command: {seconds:.1f} s, {1000 * seconds / clips:.0f} ms a clip"
        )
        print(f"the {PIPELINE} would need {clips * forward:.0f} s for as many: {clips * forward / seconds:.1f} times")
        print(f"load {os.getloadavg()[0]:.1f} at the end")


def save_classifier(encoder: str, classes: Sequence[str], folder: Path, **overrides: int) -> Path:
    """Write a stock classifier with the pretrained weights and a new head, for ser_ft and transformers alike."""
    spec = find_encoder(encoder, classes, overrides, head="stock")
    load_encoder(spec).save_pretrained(folder)
    spec.extractor.save_pretrained(folder)
    return folder


def training_steps(
    args: argparse.Namespace, table: datasets.Dataset, stock: Path, short: Path
) -> dict[str, list[float]]:
    """Return the seconds per clip of each system, one number per turn.

    Each turn takes the same clips twice and measures the second pass. The peer with 30 s takes one batch of them.
    """
    clips = table.select(np.random.default_rng(0).permutation(len(table))[: BATCH * args.batches])
    overrides = {"stock": {"max_source_positions": "auto"}, "statistics": {}}
    systems: dict[str, Callable[[], Result]] = {
        name: partial(train_with_ser_ft, args.encoder, clips, BATCH, 2, Settings(head=head, overrides=overrides[head]))
        for head, name in SYSTEMS.items()
    }
    systems[TRAINER_SHORT] = partial(train_with_transformers, short, clips, True)
    systems[TRAINER] = partial(train_with_transformers, stock, clips.select(range(BATCH)), False)
    results: dict[str, list[float]] = {name: [] for name in systems}
    for turn in range(args.turns):
        for name, train in systems.items():
            results[name].append(1 / train().rate)
            print(f"turn {turn + 1}: {name}: {results[name][-1]:.3f} s a clip", flush=True)
    return results


def train_with_transformers(folder: Path, table: datasets.Dataset, bf16: bool) -> Result:
    """Train two passes as in transformers' example, which computes the features of a batch when it is needed."""
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    torch.manual_seed(0)
    model = AutoModelForAudioClassification.from_pretrained(folder)
    rows = [
        {"samples": audio.from_wav(sound["bytes"]), "labels": label}
        for sound, label in zip(table["audio"], table["emotion"], strict=True)
    ]
    batches = []

    def collate(batch_rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batches.append([len(row["samples"]) for row in batch_rows])
        samples = [row["samples"] for row in batch_rows]
        inputs = extractor(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt")
        return {**inputs, "labels": torch.tensor([row["labels"] for row in batch_rows])}

    return Result(run_trainer(model, rows, collate, BATCH, 2, bf16), batches, float("nan"), float("nan"))


def recognition(args: argparse.Namespace, table: datasets.Dataset, stock: Path, short: Path) -> dict[str, list[float]]:
    """Return the seconds of each system for each clip."""
    file, small_file = stock.with_suffix(".onnx"), stock.with_suffix(".int8.onnx")
    for path in (file, small_file):
        export_onnx(stock, path, int8=path == small_file, data=args.data, verbose=False)
    methods: dict[str, Callable[[dict[str, Any]], object]] = {
        TORCH: EmotionRecognizer(stock, device="cpu"),
        ONNX: EmotionRecognizer(file),
        INT8: EmotionRecognizer(small_file),
        PIPELINE: pipeline("audio-classification", model=str(stock), device="cpu"),
        PIPELINE_SHORT: pipeline("audio-classification", model=str(short), device="cpu"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for number, samples in enumerate(spread_clips(table, args.clips or 32)):
        for name, recognize in methods.items():
            start = time.perf_counter()
            recognize({"raw": samples, "sampling_rate": SAMPLE_RATE})
            if number:  # the first clip warms up
                seconds[name].append(time.perf_counter() - start)
    return seconds


def probe(args: argparse.Namespace, folder: Path, cores: int) -> float:
    """Return the seconds that `ser-ft probe` takes with an empty cache."""
    data = write_part(args.data, args.clips, folder / "table") if args.clips else args.data
    environment = {**os.environ, "SER_FT_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": str(cores)}
    command = [sys.executable, "-m", "ser_ft.cli", "probe", args.encoder, "--data", str(data)]
    start = time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def show(title: str, results: dict[str, list[float]], peers: Sequence[str]) -> None:
    """Print the median seconds of each system, and how many times slower each peer is."""
    print(
        f"\n{title:48} {'ms':>7} {'lowest-highest':>15}"
        + "".join(f" {_length(peer) + ' / this':>16}" for peer in peers)
    )
    for name, seconds in results.items():
        extent = f"{1000 * min(seconds):.1f}-{1000 * max(seconds):.1f}"
        ratios = [median(b / a for a, b in zip(seconds, results[peer], strict=True)) for peer in peers]
        print(f"{name:48} {1000 * median(seconds):7.1f} {extent:>15}" + "".join(f" {value:16.2f}" for value in ratios))


def _length(peer: str) -> str:
    return ", ".join(peer.split(", ")[1:])


def agreement(args: argparse.Namespace) -> None:
    torch.set_num_threads(os.cpu_count() or 1)
    model = find_model_folder(Path(args.encoder)) or Path(args.encoder)
    clips = spread_clips(open_prepared(args.data), args.clips or 64)
    recognizer = EmotionRecognizer(model, device="cpu")
    classes = recognizer.info.classes
    with tempfile.TemporaryDirectory() as name:
        file, small_file, sounds = (Path(name, part) for part in ("model.onnx", "int8.onnx", "clips.npz"))
        for path in (file, small_file):
            export_onnx(model, path, int8=path == small_file, data=args.data, tolerance=1.0, verbose=False)
        # The recognizer filters what it is given: the other systems get the same samples.
        filtered = [HighPass().feed(clip.copy()) for clip in clips]
        np.savez(sounds, *filtered)
        alone = recognize(recognizer, clips)
        others = {
            "in a mixed batch": in_mixed_batches(model, filtered),
            "ONNX": recognize(EmotionRecognizer(file), clips),
            "ONNX with --int8": recognize(EmotionRecognizer(small_file), clips),
            "stream": np.stack([by_stream(recognizer, clip) for clip in clips]),
            "transformers' pipeline": by_pipeline(model, sounds, classes),
        }
    lengths = [len(clip) / SAMPLE_RATE for clip in clips]
    print(f"{args.encoder}: {len(clips)} clips of {min(lengths):.1f} to {max(lengths):.1f} s, against each clip alone")
    print(f"\n{'':24} {'largest difference':>20} {'mean difference':>16} {'same class':>11} {'answers':>8}")
    for name, probabilities in others.items():
        answered = ~np.isnan(probabilities[:, 0])
        differences = np.abs(probabilities - alone)[answered]
        same = (probabilities.argmax(axis=1) == alone.argmax(axis=1))[answered].mean()
        print(f"{name:24} {differences.max():20.2g} {differences.mean():16.2g} {same:11.1%} {answered.mean():8.1%}")


def recognize(recognizer: EmotionRecognizer, clips: Sequence[np.ndarray]) -> np.ndarray:
    """Return the probabilities of clips, each passed alone, shape (clips, classes)."""
    answers = [recognizer({"array": clip, "sampling_rate": SAMPLE_RATE})[0]["scores"] for clip in clips]
    return np.array([[answer[name] for name in recognizer.info.classes] for answer in answers])


def in_mixed_batches(model: Path, clips: Sequence[np.ndarray]) -> np.ndarray:
    """Return the probabilities of clips in batches of random clips, padded to the longest."""
    saved = PretrainedClassifier.load(str(model))
    network: Any = saved.model
    input_spec, probabilities = EncoderParts.of(network).input_spec, np.zeros((len(clips), len(saved.classes)))
    order = np.random.default_rng(0).permutation(len(clips))
    for rows in np.array_split(order, -(-len(clips) // BATCH)):
        inputs = collate_waveforms([clips[row] for row in rows], saved.extractor, input_spec)
        with torch.inference_mode():
            logits = network(**inputs).logits
        probabilities[rows] = to_probabilities(logits.numpy(), (len(rows), len(saved.classes)))
    return probabilities


def by_stream(recognizer: EmotionRecognizer, clip: np.ndarray) -> np.ndarray:
    """Return the probabilities of a clip in a window of its length, shape (classes,); NaN without enough speech."""
    seconds = -(-len(clip) // 160) / 100  # windows are whole frames of 10 ms
    stream = recognizer.stream(SAMPLE_RATE, window=seconds, hop=seconds, smoothing=0.0)
    windows = [window for start in range(0, len(clip), CHUNK) for window in stream.feed(clip[start : start + CHUNK])]
    (window,) = windows + stream.finish()
    scores = window["scores"] or {}
    return np.array([scores.get(name, np.nan) for name in recognizer.info.classes])


def by_pipeline(model: Path, sounds: Path, classes: Sequence[str]) -> np.ndarray:
    """Return the probabilities of transformers' pipeline without ser_ft, shape (clips, classes)."""
    is_custom = "auto_map" in json.loads((model / "config.json").read_text())
    command = [sys.executable, "-c", PIPELINE_ALONE, str(model), str(sounds), str(is_custom)]
    environment = {**os.environ, "HF_MODULES_CACHE": str(sounds.parent / "modules")}
    output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout
    return np.array([[answer[name] for name in classes] for answer in json.loads(output)])


def spread_clips(table: datasets.Dataset, count: int) -> list[np.ndarray]:
    """Return the samples of clips, evenly spaced over a table."""
    rows = np.linspace(0, len(table) - 1, min(count, len(table))).astype(int)
    return [audio.from_wav(sound["bytes"]) for sound in table[rows.tolist()]["audio"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "agreement"))
    parser.add_argument("encoder", metavar="ENCODER", help="speed: a Whisper encoder; agreement: a run or model folder")
    parser.add_argument("--data", type=Path, required=True, help="a prepared table, such as that of RAVDESS")
    clips = "clips that are recognized (default: 32, for agreement 64) and probed (default: all), evenly spaced"
    parser.add_argument("--clips", type=int, help=clips)
    parser.add_argument("--batches", type=int, default=4, help=f"batches of {BATCH} clips in a pass of the training")
    parser.add_argument("--turns", type=int, default=3, help="turns of the training")
    args = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    (speed if args.what == "speed" else agreement)(args)


if __name__ == "__main__":
    main()
