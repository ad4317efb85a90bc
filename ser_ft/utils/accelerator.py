"""The machine that a run finds: its processes, its device, and the precision that it is fast in."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, set_seed
from huggingface_hub.utils.tqdm import enable_progress_bars
from transformers.utils import logging

from .errors import InputError

TRACKERS = ("aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb")


def create_accelerator(
    mixed_precision: str | None,
    seed: int,
    *,
    pretrained: bool = False,
    trackers: Sequence[str] = (),
    out: str | None = None,
) -> Accelerator:
    """Start accelerate on what the machine has, and seed every generator.

    Args:
        mixed_precision: no, bf16, fp16, auto, or None for the launcher's. seed: of the run.
        pretrained: the model is one of transformers', not all of whose weights a pass need reach: a last
            normalisation under weighted layers, frozen stages. trackers: any of accelerate's. out: where they write.

    Raises:
        InputError: the machine cannot do what is asked for, a tracker is unknown or not installed, or several
            processes were asked for and one was started.
    """
    # Its bars over the few files of a checkpoint would break into ours; those of downloads stay.
    logging.disable_progress_bar()
    enable_progress_bars()
    for name in trackers:
        if name not in TRACKERS:
            raise InputError(f"unknown tracker {name!r}: use one of {', '.join(TRACKERS)}")
    # A run before this one, in the same process, may have had another precision.
    AcceleratorState._reset_state()
    _check_launch()
    try:
        accelerator = Accelerator(
            mixed_precision=best_precision() if mixed_precision == "auto" else mixed_precision,
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)] if pretrained else None,
            log_with=list(trackers) or None,
            project_dir=out,
        )
    except (ValueError, ImportError) as error:
        raise InputError(f"train: {str(error).splitlines()[0]}") from error
    missing = set(trackers) - {str(getattr(tracker, "value", tracker)) for tracker in accelerator.log_with}
    if missing:
        raise InputError(f"the tracker {min(missing)} is not installed: pip install {min(missing)}")
    # Rank 0 draws from the seed itself; other processes from seeds of their own, or dropout would be the same in all.
    set_seed(seed, device_specific=True)
    return accelerator


def _check_launch() -> None:
    """Refuse to go on alone where several processes were asked for.

    `accelerate launch --cpu --num_processes 2` without mpirun starts one, and only leaves an address for the others.
    """
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ
    if launched and PartialState().num_processes == 1:
        raise InputError(
            "several processes were asked for and one was started: accelerate launch starts several on CPUs through "
            "mpirun alone; use ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 SCRIPT ..."
        )


def best_precision() -> str:
    """Return the fastest mixed precision of this machine: bf16 where it has it, else fp16 on a GPU, else no."""
    if torch.cuda.is_available() and PartialState().device.type != "cpu":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    own = PartialState().device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return "bf16" if own else "no"


def device_name(accelerator: Accelerator | PartialState) -> str:
    """Return what is written of the device in a run's environment.json."""
    if accelerator.device.type != "cuda":
        return str(accelerator.device)
    return f"{torch.cuda.get_device_name()} (CUDA {torch.version.cuda})"
