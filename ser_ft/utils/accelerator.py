"""The device and the processes of a run, and its mixed precision."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, parse_flag_from_env, set_seed
from huggingface_hub.utils.tqdm import enable_progress_bars
from transformers.utils import logging

from .errors import InputError

TRACKERS = ("aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb")


def create_accelerator(
    mixed_precision: str | None,
    seed: int,
    *,
    pretrained: bool = False,
    report_to: Sequence[str] = (),
    out: str | None = None,
) -> Accelerator:
    """Create the accelerator of a run, and seed all random generators.

    Args:
        mixed_precision: no, bf16, fp16, auto, or None for that of the launcher.
        pretrained: Whether some trained weights may be unused in a forward pass, as in pretrained encoders.
        report_to: Experiment trackers, any of `TRACKERS`.
        out: The folder that the trackers write to.

    Raises:
        InputError: The machine does not support the precision, a tracker is unknown or not installed, or the launcher
            started one process instead of several.
    """
    # transformers' progress bars for the files of a checkpoint would interrupt ours; those of downloads stay.
    logging.disable_progress_bar()
    enable_progress_bars()
    for name in report_to:
        if name not in TRACKERS:
            raise InputError(f"unknown tracker {name!r}: use one of {', '.join(TRACKERS)}")
    # An earlier run in this process may have used another precision.
    AcceleratorState._reset_state()
    _check_launch()
    try:
        accelerator = Accelerator(
            mixed_precision=best_precision() if mixed_precision == "auto" else mixed_precision,
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)] if pretrained else None,
            log_with=list(report_to) or None,
            project_dir=out,
        )
    except (ValueError, ImportError) as error:
        raise InputError(f"train: {str(error).splitlines()[0]}") from error
    missing = set(report_to) - {str(getattr(tracker, "value", tracker)) for tracker in accelerator.log_with}
    if missing:
        raise InputError(f"the tracker {min(missing)} is not installed: pip install {min(missing)}")
    # The first process uses the seed itself; the others use other seeds, so that dropout differs between them.
    set_seed(seed, device_specific=True)
    return accelerator


def start_trackers(accelerator: Accelerator, settings: Mapping[str, Any]) -> None:
    """Start the experiment trackers with the settings of a run; they take only numbers and text."""
    config = {
        key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in settings.items()
    }
    accelerator.init_trackers("ser_ft", config=config)


def _check_launch() -> None:
    # Without mpirun, `accelerate launch --cpu --num_processes 2` starts one process and sets the address of others.
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ
    if launched and PartialState().num_processes == 1:
        raise InputError(
            "accelerate launch was asked for several processes and started one: on CPUs it needs mpirun; use "
            "ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 SCRIPT ..."
        )


def is_main_process() -> bool:
    """Return whether this process is the main one, before the run's accelerator exists."""
    # Unlike Accelerator, PartialState does not read the variable by itself.
    return bool(PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU")).is_main_process)


def best_precision() -> str:
    """Return the fastest mixed precision of this machine: bf16 if the device has it, else fp16 on a GPU, else no."""
    if torch.cuda.is_available() and PartialState().device.type != "cpu":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    has_bf16 = PartialState().device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return "bf16" if has_bf16 else "no"


def device_name(accelerator: Accelerator | PartialState) -> str:
    """Return the name of the device for a run's environment.json."""
    if accelerator.device.type != "cuda":
        return str(accelerator.device)
    return f"{torch.cuda.get_device_name()} (CUDA {torch.version.cuda})"
