"""Checkpoints of a run: written whole or not at all, with what is trained and no more, and gone on from to the bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ..evaluation.run_folder import RunFolder
from ..utils.errors import InputError
from ..utils.files import remove_folder, replace_atomically

_KEPT = 2
_WEIGHTS = "trained.safetensors"


class Checkpoints:
    """The checkpoints of a run: weights, optimiser, schedules and random states, and the loop's own progress.

    Args:
        accelerator: with which model and optimiser were prepared; its hooks are set here.
        run: where they go. model: not wrapped. trained: names in its state of what training changes: frozen weights
            are where they came from, and are not saved.
    """

    def __init__(self, accelerator: Accelerator, run: RunFolder, model: torch.nn.Module, trained: set[str]) -> None:
        self.accelerator, self.run, self.model, self.trained = accelerator, run, model, trained
        accelerator.register_save_state_pre_hook(self._save_trained)
        accelerator.register_load_state_pre_hook(self._load_trained)

    @property
    def found(self) -> list[Path]:
        """The whole checkpoints, oldest first."""
        return sorted(self.run.checkpoints.glob("step-*"))

    def save(self, step: int, progress: dict[str, Any]) -> None:
        """Write a checkpoint, with each process's own progress, and let the oldest go."""
        accelerator = self.accelerator
        folder = self.run.checkpoints / f"step-{step:07d}"
        partial = folder.with_name(f".{folder.name}.partial")
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        accelerator.wait_for_everyone()
        accelerator.save_state(str(partial))
        content = {"processes": accelerator.num_processes, "progress": progress}
        (partial / f"progress-{accelerator.process_index}.json").write_text(json.dumps(content), encoding="utf-8")
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            replace_atomically(partial, folder)
            for outdated in self.found[:-_KEPT]:
                remove_folder(outdated)
        accelerator.wait_for_everyone()

    def load(self) -> dict[str, Any] | None:
        """Go on from the newest checkpoint; return this process's progress, None where there is no checkpoint.

        Raises:
            InputError: the run was started on another number of processes.
        """
        if not self.found:
            return None
        newest = self.found[-1]
        own = newest / f"progress-{self.accelerator.process_index}.json"
        started = json.loads((newest / "progress-0.json").read_text(encoding="utf-8"))["processes"]
        if started != self.accelerator.num_processes:
            raise InputError(f"{self.run.path}: started on {started} processes; resume it on as many")
        self.accelerator.load_state(str(newest))
        progress: dict[str, Any] = json.loads(own.read_text(encoding="utf-8"))["progress"]
        return progress

    def write_weights(self, folder: Path) -> None:
        """Write what is trained into a folder, as safetensors."""
        from safetensors.torch import save_file

        state = self.model.state_dict()
        chosen = {name: value.detach().cpu().contiguous() for name, value in state.items() if name in self.trained}
        save_file(chosen, folder / _WEIGHTS)

    def read_weights(self, folder: Path) -> None:
        """Put what `write_weights` wrote into the model; all other weights stay as they are."""
        from safetensors.torch import load_file

        unknown = self.model.load_state_dict(load_file(folder / _WEIGHTS), strict=False).unexpected_keys
        assert not unknown, f"weights of another model: {unknown[:3]}"

    def _save_trained(self, _: list[Any], weights: list[Any], folder: str) -> None:
        weights.clear()
        if self.accelerator.is_main_process:
            self.write_weights(Path(folder))

    def _load_trained(self, models: list[Any], folder: str) -> None:
        models.clear()
        self.read_weights(Path(folder))


def trained_names(model: torch.nn.Module, groups: list[dict[str, Any]]) -> set[str]:
    """Return the names, in a model's state, of what training changes: parameters in an optimiser's groups, buffers."""
    chosen = {id(parameter) for group in groups for parameter in group["params"]}
    parameters = {name for name, one in model.named_parameters() if id(one) in chosen}
    return parameters | {name for name, _ in model.named_buffers()}
