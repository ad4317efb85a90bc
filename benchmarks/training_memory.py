"""Memory and time of training steps: full fine-tuning, with gradient checkpointing, and with low-rank adapters.

    python benchmarks/training_memory.py --data data/ravdess
    python benchmarks/training_memory.py --data data/ravdess --model openai/whisper-base --seconds 10

A wav2vec2-base of real size with random weights, or the encoder of --model, on real clips on a CPU, each system in a
process of its own; recognition is not measured. The allocator returns freed memory at once: by default, glibc keeps
much of it, which hides what a step needs. Merging the adapters must not change the output.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import Accelerator
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

from ser_ft import audio
from ser_ft.config.schema import AugmentConfig, ModelConfig, TuningConfig
from ser_ft.data.prepare import open_prepared
from ser_ft.models.encoders import load_encoder
from ser_ft.training.finetuning import find_encoder, prepare_encoder
from ser_ft.training.trainer import TrainableModel, create_optimizer

# Settings of `tuning`, and whether gradients are checkpointed.
SYSTEMS: dict[str, tuple[dict[str, Any], bool]] = {
    "full": ({"mode": "full"}, False),
    "full, checkpointing": ({"mode": "full"}, True),
    "lora, attention": ({"mode": "lora"}, False),
    "lora, all": ({"mode": "lora", "lora_targets": "all"}, False),
}
BATCH = 8


def with_length(table: datasets.Dataset, seconds: float) -> datasets.Dataset:
    """Repeat or cut each clip to a length."""

    def change(row: dict[str, Any]) -> dict[str, Any]:
        wave = np.resize(audio.from_wav(row["audio"]["bytes"]), round(seconds * audio.SAMPLE_RATE))
        return {"audio": {"bytes": audio.to_wav(wave), "path": None}, "duration": seconds}

    return table.map(change)


def measure(name: str, backbone: Path, data: Path, clips: int, seconds: float | None) -> dict[str, float]:
    """Train for a few steps in this process; return the numbers of parameters, the peak memory and a step's time."""
    settings, checkpointing = SYSTEMS[name]
    tuning = TuningConfig(dropout=0.0, **settings)
    table = open_prepared(data).select(range(clips))
    overrides = {}
    if seconds is not None:
        table = with_length(table, seconds)
        if json.loads((backbone / "config.json").read_text())["model_type"] == "whisper":
            overrides["max_source_positions"] = round(50 * seconds)
    spec = find_encoder(ModelConfig(str(backbone), config_overrides=overrides), tuning, tuple("abcdefgh"))
    device = Accelerator(cpu=True).device
    trainable = prepare_encoder(
        load_encoder(spec),
        spec.extractor,
        [table],
        tuning,
        AugmentConfig(),
        1e-3,
        device,
        gradient_checkpointing=checkpointing,
    )
    optimizer = create_optimizer(trainable.learning_rates, 0.01, device)
    trainable.model.train()
    times = []
    for start in range(0, clips, BATCH):
        batch = trainable.batch_source.collate(list(range(start, start + BATCH)))
        started = time.perf_counter()
        trainable.model(**batch).logits.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - started)
    # On Linux, VmHWM is the process's own peak; getrusage includes that of its parent from before exec.
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    peak_kilobytes = next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), None)
    peak = (peak_kilobytes or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1024
    trained = sum(parameter.numel() for group in optimizer.param_groups for parameter in group["params"])
    trainable.model.eval()
    batch = trainable.batch_source.collate(list(range(BATCH)))
    with torch.inference_mode():
        before = trainable.model(**batch).logits
        after = merged_logits(trainable, batch)
    return {
        "trained": trained,
        "whole": sum(parameter.numel() for parameter in trainable.model.parameters()),
        "peak_mb": peak,
        "step_seconds": min(times[1:]),
        "merged": float((before - after).abs().max()),
    }


def merged_logits(trainable: TrainableModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the logits with merged adapters; the input is still the cached states."""
    for module in trainable.model.modules():
        if hasattr(module, "merge") and hasattr(module, "lora_A"):
            module.merge()
    return trainable.model(**batch).logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a table written by `ser-ft prepare`")
    parser.add_argument("--model", type=Path, help="folder of an encoder; default: a wav2vec2-base with random weights")
    parser.add_argument("--seconds", type=float, help="repeat or cut the clips to this length")
    parser.add_argument("--clips", type=int, default=3 * BATCH)
    parser.add_argument("--system", choices=SYSTEMS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.system:
        print(json.dumps(measure(args.system, args.model, args.data, args.clips, args.seconds)))
        return
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        if args.model is None:
            torch.manual_seed(0)
            Wav2Vec2Model(Wav2Vec2Config()).save_pretrained(folder)
            Wav2Vec2FeatureExtractor(return_attention_mask=False, do_normalize=True).save_pretrained(folder)
        command = [sys.executable, __file__, "--data", str(args.data), "--clips", str(args.clips)]
        command += ["--model", str(args.model or folder)]
        command += ["--seconds", str(args.seconds)] if args.seconds else []
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000", "MALLOC_TRIM_THRESHOLD_": "1000000"}
        for name in SYSTEMS:
            process = subprocess.run(
                [*command, "--system", name], check=True, env=environment, stdout=subprocess.PIPE, text=True
            )
            result = results[name] = json.loads(process.stdout.splitlines()[-1])
            trained_share = result["trained"] / result["whole"]
            print(
                f"{name:20} trained {result['trained'] / 1e6:6.2f} M ({trained_share:6.2%}), peak memory "
                f"{result['peak_mb']:5.0f} MB, step {result['step_seconds']:5.2f} s, merged differs by "
                f"{result['merged']:.1e}",
                flush=True,
            )
    print(f"merged_difference: {max(result['merged'] for result in results.values()):.1e}")
    for name, key in (("full, checkpointing", "checkpointing"), ("lora, attention", "lora")):
        for value in ("peak_mb", "step_seconds"):
            print(f"{key}_{value}_over_full: {results[name][value] / results['full'][value]:.2f}")


if __name__ == "__main__":
    main()
