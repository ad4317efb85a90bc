"""Fine-tuning speed of wav2vec2-base, against transformers' `Trainer` as its audio-classification example sets it up.

    python benchmarks/finetune_step.py --data data/ravdess

True size, random weights, real clips, the same number of clips per batch: what is measured is speed, and that the loss
falls alike (of the same clips, after training on each --epochs times); nothing here says anything of recognition. Every
system trains on the same clips, one after the other, in turns, in one process; the rate is that of the second half of
its steps. On a GPU: also memory, and the share of the
peak rate in bf16 (--peak, in TFLOP/s, as a matrix product of the same machine gives it).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import datasets
import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.nn.functional import cross_entropy
from transformers import (
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    DataCollatorWithPadding,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForPreTraining,
)
from transformers.utils import logging

from ser_ft import audio
from ser_ft.config.schema import DataConfig, ModelConfig, Recipe, TrainConfig, TuningConfig
from ser_ft.data.prepare import open_prepared
from ser_ft.dataloading.targets import ClipData
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.models.encoders import load_encoder
from ser_ft.training.classification import ClassificationJob, ClassificationTrainer
from ser_ft.training.finetuning import find_encoder, prepare_encoder
from ser_ft.training.trainer import create_optimizer
from ser_ft.utils.accelerator import best_precision

PEER = "transformers' Trainer"
STRONG = "transformers' Trainer, bf16, no dropout"
RATE = 3e-5
DROPOUTS = ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout", "final_dropout")
# What transformers' example takes from the command line, here as its README gives it for wav2vec2-base.
EXAMPLE = {"learning_rate": RATE, "warmup_steps": 0.1, "weight_decay": 0.0, "max_grad_norm": 1.0}


@dataclass
class Found:
    """What a system took: seconds of each step but the first, the lengths of its clips, and the loss after."""

    seconds: list[float]
    batches: list[list[int]]
    loss: float
    memory: float

    @property
    def rate(self) -> float:
        """Clips of mean length per second, over the second half of the steps: batches cut by length differ in it."""
        half = len(self.seconds) // 2
        mean = np.mean([length for batch in self.batches for length in batch])
        heard = sum(length for batch in self.batches[half + 1 :] for length in batch)
        return float(heard / mean / sum(self.seconds[half:]))

    @property
    def padding(self) -> float:
        """The share of padding in what was computed."""
        return 1 - sum(map(sum, self.batches)) / sum(max(batch) * len(batch) for batch in self.batches)


@dataclass(frozen=True)
class Ours:
    """Which of our ways are on."""

    precision: str = "auto"
    cache: bool = True
    dropout: float | None = 0.0
    bucketed: bool = True
    compiled: bool = False


class Clock(TrainerCallback):
    """Takes the time at the end of each of `Trainer`'s steps."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: object, **__: object) -> None:
        self.ends.append(now())


class Timed(ClassificationTrainer):
    """Our loop, the time taken at the end of each step; batches shuffled without regard to length, where asked for."""

    bucketed = True

    def _step(self, group: list[tuple[list[int], dict[str, torch.Tensor]]]) -> None:
        super()._step(group)
        self.__dict__.setdefault("ends", []).append(now())

    def _batches(self, epoch: int) -> list[list[int]]:
        if self.bucketed:
            return super()._batches(epoch)
        order = np.random.default_rng(epoch).permutation(len(self.train_rows))
        return [part.tolist() for part in np.array_split(order, len(order) // self.config.batch_size)]


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def plain(folder: Path, table: datasets.Dataset, batch: int, epochs: int, bf16: bool, dropout: float | None) -> Found:
    """Train as transformers' example does: shuffled batches padded to the longest, nothing computed beforehand."""
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    changed = {} if dropout is None else dict.fromkeys(DROPOUTS, dropout)
    torch.manual_seed(0)
    model = AutoModelForAudioClassification.from_pretrained(folder, num_labels=8, layerdrop=0.0, **changed)
    model.freeze_feature_encoder()
    rows = []
    for row in table:
        made = extractor(audio.from_wav(row["audio"]["bytes"]), sampling_rate=16_000)
        rows.append({"input_values": made["input_values"][0], "labels": row["emotion"]})
    clock = Clock()
    pad = DataCollatorWithPadding(extractor)  # type: ignore[arg-type]
    batches = []

    def collate(chosen: list[dict[str, object]]) -> object:
        batches.append([len(row["input_values"]) for row in chosen])  # type: ignore[arg-type]
        return pad(chosen)

    with tempfile.TemporaryDirectory() as out:
        arguments = TrainingArguments(
            out,
            per_device_train_batch_size=batch,
            num_train_epochs=epochs,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
            bf16=bf16,
            use_cpu=not torch.cuda.is_available(),
            seed=0,
            dataloader_drop_last=True,
            **EXAMPLE,
        )
        trainer = Trainer(
            model,
            arguments,
            train_dataset=rows,  # type: ignore[arg-type]
            data_collator=collate,
            callbacks=[clock],
        )
        trainer.remove_callback(PrinterCallback)
        reset_memory()
        trainer.train()
    model.eval()
    with torch.inference_mode():
        losses = []
        for row in rows:
            sound = torch.as_tensor(row["input_values"], device=model.device)[None]
            losses.append(cross_entropy(model(sound).logits.float().cpu(), torch.tensor([row["labels"]])))
    loss = float(torch.stack(losses).mean())
    return Found(np.diff(clock.ends).tolist(), batches, loss, peak_memory())


def ours(folder: Path, table: datasets.Dataset, batch: int, epochs: int, ways: Ours) -> Found:
    """Train as ser_ft does, with some of its ways switched off."""
    recipe = Recipe(
        data=DataConfig(prepared="."),
        model=ModelConfig(name=str(folder), config_overrides={"mask_time_prob": 0.0}),
        tuning=TuningConfig(mode="full", learning_rate=RATE, dropout=ways.dropout, cache=ways.cache),
        train=TrainConfig(
            epochs=epochs,
            batch_size=batch,
            learning_rate=RATE,
            weight_decay=0.0,
            max_grad_norm=1.0,
            label_smoothing=0.0,
            early_stopping_patience=None,
            mixed_precision=ways.precision,
            compile=ways.compiled,
        ),
    )
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(mixed_precision=best_precision() if ways.precision == "auto" else ways.precision)
    torch.manual_seed(0)
    classes = tuple(table.features["emotion"].names)
    spec = find_encoder(recipe.model, recipe.tuning, classes)
    setup = prepare_encoder(
        load_encoder(spec),
        spec.extractor,
        [table],
        recipe.tuning,
        recipe.augment,
        recipe.train.learning_rate,
        accelerator.device,
        compile_layers=recipe.train.compile,
    )
    optimizer = create_optimizer(setup.learning_rates, recipe.train.weight_decay, accelerator.device)
    with tempfile.TemporaryDirectory() as out:
        rows, none = np.arange(len(table)), np.arange(0)
        clips = ClipData.from_table(table, setup.batch_source, classes)
        job = ClassificationJob(setup, optimizer, rows, clips, none)
        loop = Timed(accelerator, job, recipe.train, RunFolder(out), 0)
        loop.bucketed = ways.bucketed
        reset_memory()
        for epoch in range(epochs):
            loop.state.epoch, loop.state.batch = epoch, 0
            loop._run_epoch(Silent())
        batches = [part for epoch in range(epochs) for part in loop._batches(epoch)]
        shares = loop.probabilities(rows)
    loss = float(-np.log(shares[rows, np.array(table["emotion"])]).mean())
    lengths = [setup.batch_source.lengths[part].tolist() for part in batches]
    return Found(np.diff(loop.ends).tolist(), lengths, loss, peak_memory())


class Silent:
    """A progress bar that shows nothing."""

    def update(self) -> None:
        pass


def reset_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> float:
    """Return the most GPU memory that was in use since, in GiB."""
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else float("nan")


def flops(seconds: float, config: Wav2Vec2Config) -> float:
    """Return the operations of one training pass above the convolutions, forward and backward, for so much sound."""
    frames, size, wide = 50 * seconds, config.hidden_size, config.intermediate_size
    layer = 2 * frames * (4 * size * size + 2 * size * wide) + 4 * frames * frames * size
    groups = config.num_conv_pos_embedding_groups
    positions = 2 * frames * size * size // groups * config.num_conv_pos_embeddings
    return 3 * (config.num_hidden_layers * layer + positions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a table that `ser-ft prepare` wrote")
    parser.add_argument("--clips", type=int, default=96, help="trained on by each system, in each turn")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=1, help="passes over the clips, in each turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--systems", default="", help="names of the table's rows, separated by ';'; default: all")
    parser.add_argument("--peak", type=float, help="TFLOP/s in bf16 that this machine reaches")
    chosen = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    best = Ours()
    systems: dict[str, Callable[[Path, datasets.Dataset], Found]] = {
        PEER: lambda folder, table: plain(folder, table, chosen.batch, chosen.epochs, False, None),
        STRONG: lambda folder, table: plain(folder, table, chosen.batch, chosen.epochs, True, 0.0),
        "ser_ft": lambda folder, table: ours(folder, table, chosen.batch, chosen.epochs, best),
    }
    without = {
        "ser_ft without bf16": replace(best, precision="no"),
        "ser_ft without cached convolutions": replace(best, cache=False),
        "ser_ft with dropout 0.1": replace(best, dropout=0.1),
        "ser_ft without length buckets": replace(best, bucketed=False),
    }
    if torch.cuda.is_available():
        without["ser_ft compiled"] = replace(best, compiled=True)
    for name, ways in without.items():
        systems[name] = lambda folder, table, ways=ways: ours(folder, table, chosen.batch, chosen.epochs, ways)
    wanted = [name for name in chosen.systems.split(";") if name] or list(systems)
    table = open_prepared(chosen.data)
    table = table.select(np.random.default_rng(0).permutation(len(table))[: chosen.clips])
    found: dict[str, list[Found]] = {name: [] for name in wanted}
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        config = Wav2Vec2Config()
        Wav2Vec2ForPreTraining(config).save_pretrained(folder)
        Wav2Vec2FeatureExtractor(return_attention_mask=False, do_normalize=True).save_pretrained(folder)
        for turn in range(chosen.turns):
            for name in wanted:
                found[name].append(systems[name](Path(folder), table))
                print(f"turn {turn + 1}: {name}: {found[name][-1].rate:.2f} clips/s", flush=True)
    show(found)
    if chosen.peak:
        length = float(np.mean(table["duration"]))
        share = flops(length, config) * median(each.rate for each in found["ser_ft"]) / chosen.peak / 1e12
        print(f"share_of_bf16_peak: {share:.3f}")
    for peer, name in ((PEER, "over_trainer"), (STRONG, "over_trainer_bf16")):
        if peer in found and "ser_ft" in found:
            print(f"{name}: {ratio(found['ser_ft'], found[peer]):.2f}")


def ratio(one: Sequence[Found], other: Sequence[Found]) -> float:
    """Return the median over turns of the one's rate by the other's, of the same turn."""
    return median(ours.rate / theirs.rate for ours, theirs in zip(one, other, strict=True))


def show(found: dict[str, list[Found]]) -> None:
    print(f"\n{'':44} {'clips/s':>8} {'of turns':>13} {'x ser_ft':>9} {'loss':>7} {'padding':>8} {'GPU GiB':>8}")
    for name, turns in found.items():
        rates = [each.rate for each in turns]
        share = f"{ratio(turns, found['ser_ft']):.2f}" if "ser_ft" in found else ""
        loss, padding = (median(getattr(each, key) for each in turns) for key in ("loss", "padding"))
        print(
            f"{name:44} {median(rates):8.2f} {min(rates):6.2f}-{max(rates):.2f} {share:>9} {loss:7.3f} {padding:8.1%} "
            f"{median(each.memory for each in turns):8.1f}"
        )


if __name__ == "__main__":
    main()
