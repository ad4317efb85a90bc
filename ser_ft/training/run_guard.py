"""Decides whether a run may use an output folder: create it, resume it, or overwrite it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol

import yaml
from accelerate import Accelerator

from ..evaluation.run_folder import RunFolder
from ..utils.atomic import write_atomically
from ..utils.errors import InputError, raise_machine_failure
from ..utils.files import check_output

# Settings that may differ between a run and its continuation: the folder, the flags, and what happens after training.
_PUBLISHING = ("push_to_hub", "hub")
_IGNORED = ("overwrite", "resume", "out", *_PUBLISHING)


class HasRunFolder(Protocol):
    """A recipe of any type."""

    overwrite: bool
    resume: bool

    def text(self) -> str:
        """Return the whole recipe as YAML."""


def can_resume(recipe: HasRunFolder, folder: RunFolder, what: str) -> bool:
    """Return whether a folder holds a run of this recipe that is to be resumed.

    Args:
        what: name of such a run in messages: "run" or "pretraining".

    Raises:
        InputError: the folder cannot be written, holds something else, or holds a run that must not be changed.
    """
    settings = yaml.safe_load(recipe.text())
    check_output(
        folder.path,
        what=f"a {what}",
        is_ours=lambda _: _is_run(folder, set(settings).difference(_PUBLISHING)),
        overwrite=recipe.overwrite,
        resume=recipe.resume,
    )
    if not recipe.resume or not folder.config_file.is_file():
        return False
    existing = folder.config
    if any(existing.get(key) != value for key, value in settings.items() if key not in _IGNORED):
        raise InputError(
            f"{folder.path}: holds a {what} of another recipe, which cannot be resumed; name another --out"
        )
    return True


def resumes(recipe: HasRunFolder, folder: RunFolder, split_content: dict[str, Any], what: str) -> bool:
    """Return whether training continues an earlier start.

    Args:
        split_content: content of split.json as it would be written now.
        what: as in `can_resume`.

    Raises:
        InputError: the data, and so the split, differ from those of the earlier start.
    """
    if not recipe.resume or not folder.split_file.is_file():
        return False
    if folder.split != json.loads(json.dumps(split_content)):
        raise InputError(
            f"{folder.path}: the data, and so its split, changed since this {what} began; name another --out"
        )
    return True


def is_finished(recipe: HasRunFolder, folder: RunFolder, baselines: Sequence[str]) -> bool:
    """Return whether a fine-tuning run to be resumed is already finished, with its baselines.

    Raises:
        InputError: as `can_resume`.
    """
    complete = folder.metrics_file.is_file() and len(folder.baselines) == len(set(baselines))
    return can_resume(recipe, folder, "run") and complete


def create_run_folder(
    recipe: HasRunFolder, folder: RunFolder, split_content: dict[str, Any], accelerator: Accelerator
) -> None:
    """Create the run folder with what is known before training; its old content is removed. All processes wait."""
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        with write_atomically(folder.path) as partial:
            new = RunFolder(partial)
            new.write_text(new.config_file, recipe.text())
            new.write_environment()
            new.write_json(new.split_file, split_content)
    accelerator.wait_for_everyone()


def _is_run(folder: RunFolder, keys: set[str]) -> bool:
    try:
        return keys <= folder.config.keys()
    except (OSError, TypeError, ValueError, AttributeError) as error:
        raise_machine_failure(error)
        return False
