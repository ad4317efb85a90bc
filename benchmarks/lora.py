"""What low-rank adapters save against full tuning: trained parameters, and memory; and whether merging is exact.

python benchmarks/lora.py --data data/ravdess

A true-size wav2vec2-base with random weights, on real clips: nothing here says anything of recognition.
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
    """Take a few steps in this process; return what was trained, and the memory it took."""
    table = open_prepared(data).select(range(clips))
    tuning = TuningConfig(mode=mode, dropout=0.0, **({"lora_targets": targets} if mode == "lora" else {}))
    model = ModelConfig(name=str(backbone), config_overrides={"mask_time_prob": 0.0})
    spec = find_encoder(model, tuning, ("a", "b", "c", "d", "e", "f", "g", "h"))
    device = Accelerator(cpu=True).device
    setup = prepare_encoder(load_encoder(spec), spec.extractor, [table], tuning, AugmentConfig(), 1e-3, device)
    optimiser = create_optimizer(setup.learning_rates, 0.01, device)
    setup.model.train()
    for start in range(0, clips, 8):
        batch = setup.batch_source.collate(list(range(start, start + 8)))
        setup.model(**batch).logits.square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()
    # On Linux the process's own high-water mark: what getrusage tells includes the parent's, from before exec.
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    own = next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), None)
    peak = (own or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1024
    trained = sum(parameter.numel() for group in optimiser.param_groups for parameter in group["params"])
    setup.model.eval()
    batch = setup.batch_source.collate(list(range(8)))
    with torch.inference_mode():
        before = setup.model(**batch).logits
        after = merged_logits(setup, batch)
    whole = sum(parameter.numel() for parameter in setup.model.parameters())
    return {"trained": trained, "whole": whole, "peak_mb": peak, "merged": float((before - after).abs().max())}


def merged_logits(setup: TrainableModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the logits after adapters were merged, the model still given cached states."""
    for module in setup.model.modules():
        if hasattr(module, "merge") and hasattr(module, "lora_A"):
            module.merge()
    return setup.model(**batch).logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a table that `ser-ft prepare` wrote")
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        backbone, mode, targets = chosen.one
        print(json.dumps(measure(Path(backbone), chosen.data, mode, chosen.clips, targets)))
        return
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        Wav2Vec2Model(Wav2Vec2Config()).save_pretrained(folder)
        Wav2Vec2FeatureExtractor(return_attention_mask=False, do_normalize=True).save_pretrained(folder)
        found = {}
        for name, mode, targets in (
            ("full", "full", "attention"),
            ("lora, attention", "lora", "attention"),
            ("lora, all", "lora", "all"),
        ):
            command = [sys.executable, __file__, "--data", str(chosen.data), "--clips", str(chosen.clips)]
            done = subprocess.run(
                [*command, "--one", folder, mode, targets], check=True, stdout=subprocess.PIPE, text=True
            )
            found[name] = json.loads(done.stdout.splitlines()[-1])
            facts = found[name]
            share = facts["trained"] / facts["whole"]
            print(
                f"{name:16} trained {facts['trained'] / 1e6:6.2f} M ({share:6.2%}), "
                f"peak memory {facts['peak_mb']:5.0f} MB, merged differs by {facts['merged']:.1e}",
                flush=True,
            )
    print(f"merged_difference: {max(facts['merged'] for facts in found.values()):.1e}")
    print(f"lora_memory_over_full: {found['lora, attention']['peak_mb'] / found['full']['peak_mb']:.2f}")


if __name__ == "__main__":
    main()
