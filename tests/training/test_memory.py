"""Memory in training: batches in smaller parts where it does not suffice, and gradient checkpointing."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pytest
import torch

from ser_ft.cli import train as main
from ser_ft.config.parser import parse
from ser_ft.config.schema import AugmentConfig, ModelConfig, TuningConfig
from ser_ft.config.training_loop import TrainConfig
from ser_ft.data.prepare import open_prepared
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.models.classifier import FrameClassifier
from ser_ft.models.encoders import load_encoder
from ser_ft.pipeline import train
from ser_ft.training.finetuning import find_encoder, prepare_encoder
from ser_ft.training.trainer import Progress, Trainer, create_optimizer
from ser_ft.utils.errors import InputError
from tests.helpers.training import assert_same_run, changed_weights, interrupted_at, saved_weights


def arguments(table: Path, out: Path, *more: str) -> list[str]:
    return [
        f"--data.prepared={table}",
        f"--out={out}",
        "--model.name=lstm",
        "--model.config_overrides={hidden_size: 8, dense_size: 8, dropout: 0, head_dropout: 0}",
        "--split.kind=kfold",
        "--split.folds=2",
        "--split.validation=0",
        "--train.batch_size=5",
        "--train.gradient_accumulation_steps=2",
        "--train.max_steps=2",
        "--train.save_steps=1",
        "--baselines=[]",
        *more,
    ]


def run(table: Path, out: Path, *more: str) -> RunFolder:
    return train(parse(arguments(table, out, *more), "test"), verbose=False).folder


@pytest.fixture
def limit_memory(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Returns a function that limits the memory of models in training; it returns the sizes of batches that failed."""

    def limit(max_clips: int, first_call: int = 0, model: type = FrameClassifier) -> list[int]:
        failed: list[int] = []
        sizes: list[int] = []
        forward = model.forward

        def forward_in_little_memory(self: torch.nn.Module, *args: torch.Tensor, **inputs: torch.Tensor) -> object:
            if self.training:
                sizes.append(len((*args, *inputs.values())[0]))
                if sizes[-1] > max_clips and len(sizes) > first_call:
                    failed.append(sizes[-1])
                    raise torch.OutOfMemoryError("CUDA out of memory")
            return forward(self, *args, **inputs)

        monkeypatch.setattr(model, "forward", forward_in_little_memory)
        return failed

    return limit


def test_a_step_without_memory_is_repeated_in_halves_with_the_same_gradients_and_totals(
    ravdess_table: Path,
    tmp_path: Path,
    limit_memory: Callable[..., list[int]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    plain = run(ravdess_table, tmp_path / "plain")
    # The first batch of the second step has been computed when memory runs out.
    failed = limit_memory(max_clips=3, first_call=3)
    halved = run(ravdess_table, tmp_path / "halved")
    assert failed == [5]
    assert [record.getMessage() for record in caplog.records if record.name.startswith("ser_ft")] == [
        "training needs more memory than the GPU has: from step 2 on, each batch is computed in 2 parts"
    ]
    assert halved.history[0]["train_loss"] == pytest.approx(plain.history[0]["train_loss"], rel=1e-5)
    assert halved.history[0]["train_uar"] == plain.history[0]["train_uar"]
    weights = saved_weights(plain)
    for name, value in saved_weights(halved).items():
        torch.testing.assert_close(value, weights[name], rtol=1e-3, atol=1e-5)


def test_a_resumed_run_cuts_batches_as_before(
    ravdess_table: Path, tmp_path: Path, limit_memory: Callable[..., list[int]]
) -> None:
    failed = limit_memory(max_clips=2)
    dropout = "--model.config_overrides.head_dropout=0.3"
    whole = run(ravdess_table, tmp_path / "whole", dropout)
    assert failed == [5, 3], "halves are cut again"
    progress = json.loads(next(whole.checkpoints.glob("step-0000002/progress-0.json")).read_text())
    assert progress["progress"]["batch_parts"] == 4
    with interrupted_at(1):
        run(ravdess_table, tmp_path / "interrupted", dropout)
    failed.clear()
    assert_same_run(whole, run(ravdess_table, tmp_path / "interrupted", dropout, "--resume"))
    assert not failed


def test_one_clip_that_does_not_fit_ends_the_run_with_advice_in_one_line(
    ravdess_table: Path, tmp_path: Path, limit_memory: Callable[..., list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    failed = limit_memory(max_clips=0)
    assert main(arguments(ravdess_table, tmp_path / "run")) == 2
    assert failed == [5, 2, 1, 1]
    *_, line = capsys.readouterr().err.splitlines()
    assert line == (
        "ser-ft: training needs more memory than the GPU has for 1 clip(s), so that a lower train.batch_size or "
        "train.max_batch_seconds does not help: set train.mixed_precision auto or choose a smaller model or "
        "shorter clips"
    )


def test_several_processes_end_with_advice() -> None:
    """If one of them repeated a step, the others would wait for it forever."""
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(num_processes=2, mixed_precision="bf16"),
        description="training",
        state=Progress(),
        trainable=SimpleNamespace(model=SimpleNamespace(supports_gradient_checkpointing=True)),
        _config=TrainConfig(),
    )
    advice = "set train.gradient_checkpointing true or lower train.batch_size or train.max_batch_seconds"
    with pytest.raises(InputError, match=f"than the GPU has, and only a run of one process .* parts: {advice}"):
        Trainer._halve_batches(trainer, 8)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("family", "mode"),
    [
        ("wav2vec2", "full"),
        ("whisper", "full"),
        ("wav2vec2", "lora"),
        ("wavlm", "partial"),
        ("wav2vec2-conformer", "full"),  # its batch normalization must count the statistics of a batch once
    ],
)
def test_gradient_checkpointing_saves_memory_and_trains_the_same_weights(
    family: str, mode: Literal["full", "lora", "partial"], tiny_encoder: Callable[[str], Path], ravdess_table: Path
) -> None:
    weights, kept_bytes, cpu = [], [], torch.device("cpu")
    for checkpointing in (False, True):
        torch.manual_seed(0)
        np.random.seed(0)
        tuning = TuningConfig(mode, num_top_layers=2 if mode == "partial" else None, dropout=0.2)
        spec = find_encoder(ModelConfig(str(tiny_encoder(family))), tuning, ("angry", "happy"))
        model, extractor = load_encoder(spec), spec.extractor
        table = open_prepared(ravdess_table).select(range(4))
        trainable = prepare_encoder(
            model, extractor, [table], tuning, AugmentConfig(), 3e-3, cpu, gradient_checkpointing=checkpointing
        )
        optimizer = create_optimizer([(values, 0.01) for values, _ in trainable.learning_rates], 0.01, cpu)
        trainable.model.train()
        for _ in range(2):
            kept: list[int] = []
            with torch.autograd.graph.saved_tensors_hooks(
                lambda value, kept=kept: kept.append(value.nbytes) or value, lambda value: value
            ):
                loss = trainable.model(**trainable.batch_source.collate(range(4))).logits.square().sum()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        kept_bytes.append(sum(kept))
        weights.append(trainable.finish().state_dict())
    assert kept_bytes[1] < 0.5 * kept_bytes[0]
    assert not changed_weights(*weights)
