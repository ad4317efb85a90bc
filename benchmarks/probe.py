"""What `ser-ft probe` costs, against the forward passes of its encoder alone: a true-size wav2vec2-base.

    ser-ft prepare ravdess=FOLDER --out data/ravdess
    python benchmarks/probe.py --data data/ravdess

The encoder's weights are random: it costs what the pretrained one costs, and its scores mean nothing and are not shown.
The forward passes run over the same batches in the same precision, on samples that are ready in memory, without
pooling, cache or classifier; the probe is the whole command with an empty cache. The forward passes are timed before
and after it, so that a machine whose load drifts does not favour one of them.
"""

import argparse
import io
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

import numpy as np
import torch
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

from ser_ft import audio
from ser_ft.cli import main as command
from ser_ft.data.prepare import open_prepared
from ser_ft.dataloading.batches import clip_lengths
from ser_ft.dataloading.encoder_hooks import EncoderHooks
from ser_ft.dataloading.hidden_states import _batches
from ser_ft.models.collation import collate_waveforms
from ser_ft.models.encoders import EncoderParts, find_encoder, load_encoder
from ser_ft.utils.accelerator import best_precision


def write_backbone(folder: Path) -> str:
    torch.manual_seed(0)
    Wav2Vec2Model(Wav2Vec2Config()).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=False).save_pretrained(folder)
    return str(folder)


def write_part(data: Path, clips: int | None, out: Path) -> Path:
    """Write a prepared table of so many clips, spread over the whole, so that every speaker is in it."""
    table = open_prepared(data)
    rows = np.linspace(0, len(table) - 1, min(clips or len(table), len(table))).astype(int)
    table.select(rows).save_to_disk(out)
    shutil.copy(data / "corpora.json", out)
    return out


def forward(backbone: str, data: Path, precision: str) -> Callable[[], None]:
    """Return what runs the encoder over all clips, whose samples are ready in memory."""
    table = open_prepared(data)
    found = find_encoder(backbone, table.features["emotion"].names)
    parts = EncoderParts.of(load_encoder(found).eval())
    batches = []
    for rows in _batches(np.arange(len(table)), clip_lengths(table), parts.input_spec):
        sounds = [audio.from_wav(sound["bytes"]) for sound in table[rows.tolist()]["audio"]]
        batches.append(collate_waveforms(sounds, found.extractor, parts.input_spec))

    def run() -> None:
        rig = EncoderHooks(parts)
        low = torch.autocast("cpu", dtype=torch.bfloat16) if precision == "bf16" else nullcontext()
        with torch.inference_mode(), low:
            for inputs in batches:
                rig.set_mask(inputs.get("attention_mask"))
                parts.backbone(**inputs)
        rig.remove()

    return run


def timed(work: Callable[[], object]) -> np.ndarray:
    """Return the seconds on the clock, and those of the processor in all threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return np.array([time.perf_counter() - wall, time.process_time() - cpu])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a prepared table, such as RAVDESS's")
    parser.add_argument("--clips", type=int, help="of the table, at most (default: all)")
    parser.add_argument("--pooling", default="mean", help="mean or mean+std")
    parser.add_argument("--precision", default="auto", help="no, bf16 or auto")
    chosen = parser.parse_args()
    os.environ["ACCELERATE_USE_CPU"] = "true"
    precision = best_precision() if chosen.precision == "auto" else chosen.precision
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        os.environ["SER_FT_CACHE"] = str(work / "cache")
        backbone = write_backbone(work / "wav2vec2-base")
        data = write_part(chosen.data, chosen.clips, work / "table")
        passes = forward(backbone, data, precision)
        given = ["probe", backbone, "--data", str(data), "--precision", precision, "--pooling", chosen.pooling]
        codes = []

        def probe() -> None:
            with redirect_stdout(io.StringIO()):
                codes.append(command([*given, "--format", "json"]))

        before, whole, after = timed(passes), timed(probe), timed(passes)
        again = timed(probe)
        if codes != [0, 0]:
            raise SystemExit("the probe failed")
        clips = len(open_prepared(data))
    alone = (before + after) / 2
    print(f"wav2vec2-base with random weights; {clips} clips of {chosen.data.name}; {precision}; {chosen.pooling}")
    print(f"{torch.get_num_threads()} threads on {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"forward_seconds: {before[0]:.1f}, {after[0]:.1f}; of the processor {before[1]:.1f}, {after[1]:.1f}")
    print(f"probe_seconds: {whole[0]:.1f}; of the processor {whole[1]:.1f}")
    print(f"probe_again_from_the_cache_seconds: {again[0]:.1f}; of the processor {again[1]:.1f}")
    print(f"probe_over_forward_of_the_processor: {whole[1] / alone[1]:.3f}")
    print(f"probe_over_forward: {whole[0] / alone[0]:.3f}")


if __name__ == "__main__":
    main()
