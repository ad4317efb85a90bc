"""Checkpoints of a run: written completely or not at all, with the trained weights only, for exact resuming."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ..evaluation.run_folder import RunFolder
from ..utils.atomic import hidden_path, remove_folder, write_atomically
from ..utils.errors import InputError, raise_machine_failure
from ..utils.readers import read_json

_NUM_KEPT = 2
_WEIGHTS_FILE = "trained.safetensors"


class Checkpoints:
    """The checkpoints of a run: weights, optimizer, schedule, random states, and the progress of the loop.

    `trained` names the entries of the model's state dict that training changes; frozen weights are not saved.
    """

    def __init__(self, accelerator: Accelerator, folder: RunFolder, model: torch.nn.Module, trained: set[str]) -> None:
        self.accelerator, self.folder, self.model, self.trained = accelerator, folder, model, trained
        self._objects: dict[str, Any] = {}
        accelerator.register_save_state_pre_hook(self._save_trained)
        accelerator.register_load_state_pre_hook(self._load_trained)

    def register(self, name: str, stateful: Any) -> None:
        """Save and load an object with `state_dict` and `load_state_dict` too; accelerate would load any pickle."""
        self._objects[name] = stateful

    @property
    def paths(self) -> list[Path]:
        """The folders of the complete checkpoints, oldest first."""
        return sorted(self.folder.checkpoints.glob("step-*"))

    def save(self, step: int, progress: dict[str, Any]) -> None:
        """Write a checkpoint with the progress of each process, and remove the oldest one."""
        accelerator = self.accelerator
        path = self.folder.checkpoints / f"step-{step:07d}"
        accelerator.wait_for_everyone()
        hidden = nullcontext(hidden_path(path.resolve()))
        with write_atomically(path) if accelerator.is_main_process else hidden as partial_path:
            if accelerator.is_main_process:
                partial_path.mkdir()
                for name, stateful in self._objects.items():
                    torch.save(stateful.state_dict(), partial_path / f"{name}.pt")
            accelerator.wait_for_everyone()
            accelerator.save_state(str(partial_path))
            content = {"processes": accelerator.num_processes, "progress": progress}
            progress_file = partial_path / f"progress-{accelerator.process_index}.json"
            progress_file.write_text(json.dumps(content), encoding="utf-8")
            accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            for outdated in self.paths[:-_NUM_KEPT]:
                remove_folder(outdated)
        accelerator.wait_for_everyone()

    def load(self) -> dict[str, Any] | None:
        """Load the newest checkpoint; return this process's progress, or None if there is no checkpoint.

        Raises:
            InputError: the run was started with another number of processes, or the checkpoint is damaged.
        """
        if not self.paths:
            return None
        newest = self.paths[-1]
        processes = read_json(newest / "progress-0.json")["processes"]
        if processes != self.accelerator.num_processes:
            raise InputError(f"{self.folder.path}: was started with {processes} processes; resume it with as many")
        try:
            self.accelerator.load_state(str(newest))
            for name, stateful in self._objects.items():
                stateful.load_state_dict(torch.load(newest / f"{name}.pt", map_location="cpu", weights_only=True))
        except Exception as error:  # damaged files raise errors of many kinds
            raise_machine_failure(error)
            raise InputError(
                f"{newest}: this checkpoint is damaged: delete it to resume from the one before"
            ) from error
        progress_file = newest / f"progress-{self.accelerator.process_index}.json"
        progress: dict[str, Any] = read_json(progress_file)["progress"]
        return progress

    def write_weights(self, folder: Path) -> None:
        """Write the trained weights into a folder, as safetensors."""
        from safetensors.torch import save_file

        state = self.model.state_dict()
        weights = {name: value.detach().cpu().contiguous() for name, value in state.items() if name in self.trained}
        save_file(weights, folder / _WEIGHTS_FILE)

    def read_weights(self, folder: Path) -> None:
        """Load weights of `write_weights` into the model; all other weights are unchanged."""
        from safetensors.torch import load_file

        unknown = self.model.load_state_dict(load_file(folder / _WEIGHTS_FILE), strict=False).unexpected_keys
        assert not unknown, f"weights of another model: {unknown[:3]}"

    def _save_trained(self, _: list[Any], weights: list[Any], folder: str) -> None:
        weights.clear()
        if self.accelerator.is_main_process:
            self.write_weights(Path(folder))

    def _load_trained(self, models: list[Any], folder: str) -> None:
        models.clear()
        self.read_weights(Path(folder))


def trained_names(model: torch.nn.Module, groups: Sequence[dict[str, Any]]) -> set[str]:
    """Return the entries of a model's state dict that training changes: the optimizer's parameters, and buffers."""
    trained = {id(parameter) for group in groups for parameter in group["params"]}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in trained}
    return names | {name for name, _ in model.named_buffers()}
