"""Cost of `ser-ft probe`, compared with the forward passes of its encoder: a wav2vec2-base of real size.

    ser-ft prepare ravdess=FOLDER --out data/ravdess
    python benchmarks/probe.py --data data/ravdess

The encoder's weights are random: the cost is that of the pretrained encoder, and the scores are not shown. The
forward passes use the same batches and precision, with samples in memory, without pooling, cache or classifier. The
probe is the complete command with an empty cache. The forward passes are measured before and after it, so that a
changing load of the machine affects both.
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
from ser_ft.models.encoder_spec import find_encoder
from ser_ft.models.encoders import EncoderParts, load_encoder
from ser_ft.utils.accelerator import best_precision


def write_backbone(folder: Path) -> str:
    torch.manual_seed(0)
    Wav2Vec2Model(Wav2Vec2Config()).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=False).save_pretrained(folder)
    return str(folder)


def write_part(data: Path, clips: int | None, out: Path) -> Path:
    """Write a table of some clips, evenly spaced, so that every speaker is included."""
    table = open_prepared(data)
    rows = np.linspace(0, len(table) - 1, min(clips or len(table), len(table))).astype(int)
    table.select(rows).save_to_disk(out)
    shutil.copy(data / "corpora.json", out)
    return out


def forward(backbone: str, data: Path, precision: str) -> Callable[[], None]:
    """Return a function that runs the encoder over all clips, whose samples are in memory."""
    table = open_prepared(data)
    spec = find_encoder(backbone, table.features["emotion"].names)
    parts = EncoderParts.of(load_encoder(spec).eval())
    batches = []
    for rows in _batches(np.arange(len(table)), clip_lengths(table), parts.input_spec):
        waveforms = [audio.from_wav(recording["bytes"]) for recording in table[rows.tolist()]["audio"]]
        batches.append(collate_waveforms(waveforms, spec.extractor, parts.input_spec))

    def run() -> None:
        hooks = EncoderHooks(parts)
        autocast = torch.autocast("cpu", dtype=torch.bfloat16) if precision == "bf16" else nullcontext()
        with torch.inference_mode(), autocast:
            for inputs in batches:
                hooks.set_mask(inputs.get("attention_mask"))
                parts.backbone(**inputs)
        hooks.remove()

    return run


def timed(work: Callable[[], object]) -> np.ndarray:
    """Return seconds of wall time, and of CPU time in all threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return np.array([time.perf_counter() - wall, time.process_time() - cpu])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a prepared table, such as that of RAVDESS")
    parser.add_argument("--clips", type=int, help="largest number of clips (default: all)")
    parser.add_argument("--pooling", default="mean", help="mean or mean+std")
    parser.add_argument("--precision", default="auto", help="no, bf16 or auto")
    args = parser.parse_args()
    os.environ["ACCELERATE_USE_CPU"] = "true"
    precision = best_precision() if args.precision == "auto" else args.precision
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        os.environ["SER_FT_CACHE"] = str(work / "cache")
        backbone = write_backbone(work / "wav2vec2-base")
        data = write_part(args.data, args.clips, work / "table")
        forward_passes = forward(backbone, data, precision)
        arguments = ["probe", backbone, "--data", str(data), "--precision", precision, "--pooling", args.pooling]
        exit_codes = []

        def probe() -> None:
            with redirect_stdout(io.StringIO()):
                exit_codes.append(command([*arguments, "--format", "json"]))

        before, complete, after = timed(forward_passes), timed(probe), timed(forward_passes)
        cached = timed(probe)
        if exit_codes != [0, 0]:
            raise SystemExit("the probe failed")
        clips = len(open_prepared(data))
    forward_only = (before + after) / 2
    print(f"wav2vec2-base with random weights; {clips} clips of {args.data.name}; {precision}; {args.pooling}")
    print(f"{torch.get_num_threads()} threads on {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"forward_seconds: {before[0]:.1f}, {after[0]:.1f}; CPU {before[1]:.1f}, {after[1]:.1f}")
    print(f"probe_seconds: {complete[0]:.1f}; CPU {complete[1]:.1f}")
    print(f"probe_again_from_the_cache_seconds: {cached[0]:.1f}; CPU {cached[1]:.1f}")
    print(f"probe_over_forward_cpu: {complete[1] / forward_only[1]:.3f}")
    print(f"probe_over_forward: {complete[0] / forward_only[0]:.3f}")


if __name__ == "__main__":
    main()
