"""Trained parameters and memory of low-rank adapters, compared with full fine-tuning; exactness of merging them.

python benchmarks/lora.py --data data/ravdess

A wav2vec2-base of real size with random weights, on real clips: recognition is not measured.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from accelerate import Accelerator
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

from ser_ft.config.schema import AugmentConfig, ModelConfig, TuningConfig
from ser_ft.data.prepare import open_prepared
from ser_ft.models.encoders import load_encoder
from ser_ft.training.finetuning import find_encoder, prepare_encoder
from ser_ft.training.trainer import TrainableModel, create_optimizer


def measure(backbone: Path, data: Path, mode: str, clips: int, targets: str) -> dict[str, float]:
    """Train for a few steps in this process; return the numbers of parameters and the peak memory."""
    table = open_prepared(data).select(range(clips))
    tuning = TuningConfig(mode=mode, dropout=0.0, **({"lora_targets": targets} if mode == "lora" else {}))
    model = ModelConfig(name=str(backbone), config_overrides={"mask_time_prob": 0.0})
    spec = find_encoder(model, tuning, ("a", "b", "c", "d", "e", "f", "g", "h"))
    device = Accelerator(cpu=True).device
    trainable = prepare_encoder(load_encoder(spec), spec.extractor, [table], tuning, AugmentConfig(), 1e-3, device)
    optimizer = create_optimizer(trainable.learning_rates, 0.01, device)
    trainable.model.train()
    for start in range(0, clips, 8):
        batch = trainable.batch_source.collate(list(range(start, start + 8)))
        trainable.model(**batch).logits.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    # On Linux, VmHWM is the process's own peak; getrusage includes that of its parent from before exec.
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    peak_kilobytes = next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), None)
    peak = (peak_kilobytes or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1024
    trained = sum(parameter.numel() for group in optimizer.param_groups for parameter in group["params"])
    trainable.model.eval()
    batch = trainable.batch_source.collate(list(range(8)))
    with torch.inference_mode():
        before = trainable.model(**batch).logits
        after = merged_logits(trainable, batch)
    whole = sum(parameter.numel() for parameter in trainable.model.parameters())
    return {"trained": trained, "whole": whole, "peak_mb": peak, "merged": float((before - after).abs().max())}


def merged_logits(trainable: TrainableModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the logits with merged adapters; the input is still the cached states."""
    for module in trainable.model.modules():
        if hasattr(module, "merge") and hasattr(module, "lora_A"):
            module.merge()
    return trainable.model(**batch).logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a table written by `ser-ft prepare`")
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--single", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.single:
        backbone, mode, targets = args.single
        print(json.dumps(measure(Path(backbone), args.data, mode, args.clips, targets)))
        return
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        Wav2Vec2Model(Wav2Vec2Config()).save_pretrained(folder)
        Wav2Vec2FeatureExtractor(return_attention_mask=False, do_normalize=True).save_pretrained(folder)
        results = {}
        for name, mode, targets in (
            ("full", "full", "attention"),
            ("lora, attention", "lora", "attention"),
            ("lora, all", "lora", "all"),
        ):
            command = [sys.executable, __file__, "--data", str(args.data), "--clips", str(args.clips)]
            process = subprocess.run(
                [*command, "--single", folder, mode, targets], check=True, stdout=subprocess.PIPE, text=True
            )
            results[name] = json.loads(process.stdout.splitlines()[-1])
            result = results[name]
            trained_share = result["trained"] / result["whole"]
            print(
                f"{name:16} trained {result['trained'] / 1e6:6.2f} M ({trained_share:6.2%}), "
                f"peak memory {result['peak_mb']:5.0f} MB, merged differs by {result['merged']:.1e}",
                flush=True,
            )
    print(f"merged_difference: {max(result['merged'] for result in results.values()):.1e}")
    print(f"lora_memory_over_full: {results['lora, attention']['peak_mb'] / results['full']['peak_mb']:.2f}")


if __name__ == "__main__":
    main()
