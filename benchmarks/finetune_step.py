"""Fine-tuning speed of wav2vec2-base, compared with transformers' `Trainer` as in its audio classification example.

    python benchmarks/finetune_step.py --data data/ravdess

A model of real size with random weights, real clips, the same number of clips per batch. Measured are the speed, and
that the loss decreases equally (loss on the same clips after --epochs passes over them); recognition is not measured.
All systems train on the same clips, in turns, in one process; the speed is that of the second half of the steps. On a
GPU also the memory, and the share of the peak rate in bf16 (--peak in TFLOP/s, as measured for a matrix product on
the same machine).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

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
    PreTrainedModel,
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
from ser_ft.config.schema import DataConfig, ModelConfig, Recipe, TuningConfig
from ser_ft.config.training_loop import TrainConfig
from ser_ft.data.prepare import open_prepared
from ser_ft.dataloading.targets import ClipData
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.models.encoders import load_encoder
from ser_ft.training.classification import ClassificationJob, ClassificationTrainer
from ser_ft.training.finetuning import find_encoder, prepare_encoder
from ser_ft.training.trainer import create_optimizer
from ser_ft.utils.accelerator import best_precision

TRAINER = "transformers' Trainer"
TRAINER_BF16 = "transformers' Trainer, bf16, no dropout"
LEARNING_RATE = 3e-5
DROPOUTS = ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout", "final_dropout")
# The command-line arguments of transformers' example in its README for wav2vec2-base.
EXAMPLE = {"learning_rate": LEARNING_RATE, "warmup_steps": 0.1, "weight_decay": 0.0, "max_grad_norm": 1.0}


@dataclass
class Result:
    """Result of one system: seconds of each step except the first, lengths of the clips per batch, final loss."""

    seconds: list[float]
    batches: list[list[int]]
    loss: float
    memory: float

    @property
    def rate(self) -> float:
        """Clips of mean length per second, in the second half of the steps (batches have different lengths)."""
        half = len(self.seconds) // 2
        mean = np.mean([length for batch in self.batches for length in batch])
        seconds_of_audio = sum(length for batch in self.batches[half + 1 :] for length in batch)
        return float(seconds_of_audio / mean / sum(self.seconds[half:]))

    @property
    def padding(self) -> float:
        """The share of padding in the inputs."""
        return 1 - sum(map(sum, self.batches)) / sum(max(batch) * len(batch) for batch in self.batches)


@dataclass(frozen=True)
class Settings:
    """Settings of ser_ft's training that affect its speed, or its model."""

    precision: str = "auto"
    cache: bool = True
    dropout: float | None = 0.0
    bucketed: bool = True
    compiled: bool = False
    head: Literal["stock", "statistics"] | None = None
    overrides: dict[str, Any] = field(default_factory=lambda: {"mask_time_prob": 0.0})


class Clock(TrainerCallback):
    """Records the time at the end of each step of `Trainer`."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: object, **__: object) -> None:
        self.ends.append(now())


class TimedTrainer(ClassificationTrainer):
    """Our trainer, which records the time at the end of each step; optionally with fully shuffled batches."""

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


def train_with_transformers(
    folder: Path, table: datasets.Dataset, batch: int, epochs: int, bf16: bool, dropout: float | None
) -> Result:
    """Train as in transformers' example: shuffled batches padded to the longest clip, no cache."""
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    dropouts = {} if dropout is None else dict.fromkeys(DROPOUTS, dropout)
    torch.manual_seed(0)
    model = AutoModelForAudioClassification.from_pretrained(folder, num_labels=8, layerdrop=0.0, **dropouts)
    model.freeze_feature_encoder()
    rows = []
    for row in table:
        features = extractor(audio.from_wav(row["audio"]["bytes"]), sampling_rate=16_000)
        rows.append({"input_values": features["input_values"][0], "labels": row["emotion"]})
    pad = DataCollatorWithPadding(extractor)  # type: ignore[arg-type]
    batches = []

    def collate(batch_rows: list[dict[str, Any]]) -> object:
        batches.append([len(row["input_values"]) for row in batch_rows])
        return pad(batch_rows)

    seconds = run_trainer(model, rows, collate, batch, epochs, bf16)
    model.eval()
    with torch.inference_mode():
        losses = []
        for row in rows:
            waveform = torch.as_tensor(row["input_values"], device=model.device)[None]
            losses.append(cross_entropy(model(waveform).logits.float().cpu(), torch.tensor([row["labels"]])))
    loss = float(torch.stack(losses).mean())
    return Result(seconds, batches, loss, peak_memory())


def run_trainer(
    model: PreTrainedModel,
    rows: list[dict[str, Any]],
    collate: Callable[[list[dict[str, Any]]], object],
    batch: int,
    epochs: int,
    bf16: bool,
) -> list[float]:
    """Train a model with transformers' `Trainer` as in its example; return the seconds of each step but the first."""
    clock = Clock()
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
    return np.diff(clock.ends).tolist()


def train_with_ser_ft(folder: Path, table: datasets.Dataset, batch: int, epochs: int, settings: Settings) -> Result:
    """Train with ser_ft."""
    recipe = Recipe(
        data=DataConfig(prepared="."),
        model=ModelConfig(name=str(folder), head=settings.head, config_overrides=settings.overrides),
        tuning=TuningConfig(mode="full", learning_rate=LEARNING_RATE, dropout=settings.dropout, cache=settings.cache),
        train=TrainConfig(
            epochs=epochs,
            batch_size=batch,
            learning_rate=LEARNING_RATE,
            weight_decay=0.0,
            max_grad_norm=1.0,
            label_smoothing=0.0,
            early_stopping_patience=None,
            mixed_precision=settings.precision,
            compile=settings.compiled,
        ),
    )
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(mixed_precision=best_precision() if settings.precision == "auto" else settings.precision)
    torch.manual_seed(0)
    classes = tuple(table.features["emotion"].names)
    spec = find_encoder(recipe.model, recipe.tuning, classes, max(table["duration"]))
    trainable = prepare_encoder(
        load_encoder(spec),
        spec.extractor,
        [table],
        recipe.tuning,
        recipe.augment,
        recipe.train.learning_rate,
        accelerator.device,
        compile_layers=recipe.train.compile,
    )
    optimizer = create_optimizer(trainable.learning_rates, recipe.train.weight_decay, accelerator.device)
    with tempfile.TemporaryDirectory() as out:
        rows, no_rows = np.arange(len(table)), np.arange(0)
        clips = ClipData.from_table(table, trainable.batch_source, classes)
        job = ClassificationJob(trainable, optimizer, rows, clips, no_rows)
        trainer = TimedTrainer(accelerator, job, recipe.train, RunFolder(out), 0)
        trainer.bucketed = settings.bucketed
        reset_memory()
        for epoch in range(epochs):
            trainer.state.epoch, trainer.state.batch = epoch, 0
            trainer._run_epoch(SilentProgress())
        batches = [part for epoch in range(epochs) for part in trainer._batches(epoch)]
        probabilities = trainer.probabilities(rows)
    loss = float(-np.log(probabilities[rows, np.array(table["emotion"])]).mean())
    lengths = [trainable.batch_source.lengths[part].tolist() for part in batches]
    return Result(np.diff(trainer.ends).tolist(), lengths, loss, peak_memory())


class SilentProgress:
    """A progress bar that shows nothing."""

    def update(self) -> None:
        pass


def reset_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> float:
    """Return the peak GPU memory, in GiB."""
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else float("nan")


def flops(seconds: float, config: Wav2Vec2Config) -> float:
    """Return the floating point operations of a training step above the convolutions, per clip."""
    frames, size, intermediate_size = 50 * seconds, config.hidden_size, config.intermediate_size
    layer = 2 * frames * (4 * size * size + 2 * size * intermediate_size) + 4 * frames * frames * size
    groups = config.num_conv_pos_embedding_groups
    positions = 2 * frames * size * size // groups * config.num_conv_pos_embeddings
    return 3 * (config.num_hidden_layers * layer + positions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a table written by `ser-ft prepare`")
    parser.add_argument("--clips", type=int, default=96, help="number of clips in each turn")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=1, help="passes over the clips, in each turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--systems", default="", help="names of the table's rows, separated by ';'; default: all")
    parser.add_argument("--peak", type=float, help="TFLOP/s in bf16 of this machine")
    args = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    best = Settings()
    systems: dict[str, Callable[[Path, datasets.Dataset], Result]] = {
        TRAINER: lambda folder, table: train_with_transformers(folder, table, args.batch, args.epochs, False, None),
        TRAINER_BF16: lambda folder, table: train_with_transformers(folder, table, args.batch, args.epochs, True, 0.0),
        "ser_ft": lambda folder, table: train_with_ser_ft(folder, table, args.batch, args.epochs, best),
    }
    without = {
        "ser_ft without bf16": replace(best, precision="no"),
        "ser_ft without cached convolutions": replace(best, cache=False),
        "ser_ft with dropout 0.1": replace(best, dropout=0.1),
        "ser_ft without length buckets": replace(best, bucketed=False),
    }
    if torch.cuda.is_available():
        without["ser_ft compiled"] = replace(best, compiled=True)
    for name, settings in without.items():
        systems[name] = lambda folder, table, settings=settings: train_with_ser_ft(
            folder, table, args.batch, args.epochs, settings
        )
    selected = [name for name in args.systems.split(";") if name] or list(systems)
    table = open_prepared(args.data)
    table = table.select(np.random.default_rng(0).permutation(len(table))[: args.clips])
    results: dict[str, list[Result]] = {name: [] for name in selected}
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        config = Wav2Vec2Config()
        Wav2Vec2ForPreTraining(config).save_pretrained(folder)
        Wav2Vec2FeatureExtractor(return_attention_mask=False, do_normalize=True).save_pretrained(folder)
        for turn in range(args.turns):
            for name in selected:
                results[name].append(systems[name](Path(folder), table))
                print(f"turn {turn + 1}: {name}: {results[name][-1].rate:.2f} clips/s", flush=True)
    show(results)
    if args.peak:
        length = float(np.mean(table["duration"]))
        share = flops(length, config) * median(result.rate for result in results["ser_ft"]) / args.peak / 1e12
        print(f"share_of_bf16_peak: {share:.3f}")
    for peer, name in ((TRAINER, "over_trainer"), (TRAINER_BF16, "over_trainer_bf16")):
        if peer in results and "ser_ft" in results:
            print(f"{name}: {ratio(results['ser_ft'], results[peer]):.2f}")


def ratio(first: Sequence[Result], second: Sequence[Result]) -> float:
    """Return the median over turns of the ratio of two systems' rates."""
    return median(a.rate / b.rate for a, b in zip(first, second, strict=True))


def show(results: dict[str, list[Result]]) -> None:
    print(f"\n{'':44} {'clips/s':>8} {'of turns':>13} {'x ser_ft':>9} {'loss':>7} {'padding':>8} {'GPU GiB':>8}")
    for name, turns in results.items():
        rates = [turn.rate for turn in turns]
        share = f"{ratio(turns, results['ser_ft']):.2f}" if "ser_ft" in results else ""
        loss, padding = (median(getattr(turn, key) for turn in turns) for key in ("loss", "padding"))
        print(
            f"{name:44} {median(rates):8.2f} {min(rates):6.2f}-{max(rates):.2f} {share:>9} {loss:7.3f} {padding:8.1%} "
            f"{median(turn.memory for turn in turns):8.1f}"
        )


if __name__ == "__main__":
    main()
