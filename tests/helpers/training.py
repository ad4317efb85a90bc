"""Helpers for tests of training: compares runs, interrupts them, and starts them in other processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.training.trainer import Trainer

RECIPES = Path(__file__).parents[2] / "recipes"


def saved_weights(run: RunFolder) -> dict[str, torch.Tensor]:
    """Return the weights of a run's saved model."""
    return load_file(run.model / "model.safetensors")


def assert_same_run(first: RunFolder, second: RunFolder) -> None:
    """Check that two runs have the same history, metrics and weights, to the bit."""
    assert first.history_file.read_bytes() == second.history_file.read_bytes()
    assert first.metrics_file.is_file() == second.metrics_file.is_file()
    if first.metrics_file.is_file():
        assert first.metrics_file.read_bytes() == second.metrics_file.read_bytes()
    weights, other_weights = saved_weights(first), saved_weights(second)
    assert weights.keys() == other_weights.keys()
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)


def changed_weights(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """Return the names of the weights that differ."""
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


@contextmanager
def interrupted_at(step: int) -> Iterator[None]:
    """Interrupt training in this process before a step; the interruption is expected."""
    take_step = Trainer._step

    def stop(self: Trainer, batches: list) -> None:
        if self.state.step == step:
            raise KeyboardInterrupt
        take_step(self, batches)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_step", stop)
        with pytest.raises(KeyboardInterrupt):
            yield


def start(recipe: str, arguments: list[str], processes: int = 1) -> subprocess.Popen[str]:
    """Start recipes/RECIPE.py as a user does on a machine without a GPU, in one or several processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [sys.executable, *(launcher if processes > 1 else []), str(RECIPES / f"{recipe}.py"), *arguments]
    return subprocess.Popen(
        command,
        env=os.environ
        | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONFAULTHANDLER": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a process that must succeed; return its output. If it hangs, its stacks are part of the failure."""
    try:
        output, _ = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        for each in (*psutil.Process(process.pid).children(recursive=True), process):
            each.send_signal(signal.SIGABRT)
        output, _ = process.communicate(timeout=30)
        pytest.fail(f"the process did not end:\n{output[-20000:]}")
    assert process.returncode == 0, output[-3000:]
    return output


def kill_after_checkpoint(process: subprocess.Popen[str], out: Path, step: int) -> None:
    """Send SIGKILL to a process and its children as soon as a checkpoint of a step, or of a later one, exists."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if any(int(path.name.split("-")[1]) >= step for path in (out / "checkpoints").glob("step-*")):
            break
        time.sleep(0.002)
    # The launcher of several processes starts each in a session of its own.
    processes = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for other in processes:
        with suppress(psutil.NoSuchProcess):
            other.kill()
    process.wait()
    psutil.wait_procs(processes[1:], timeout=30)
