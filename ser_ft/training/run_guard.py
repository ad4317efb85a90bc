"""A run folder is one recipe's: refused to another, gone on with by the same, replaced where that is asked for."""

from __future__ import annotations

import json
from typing import Any, Protocol

import yaml

from ..evaluation.run_folder import RunFolder
from ..utils.errors import InputError
from ..utils.files import check_output, remove_folder


class HasRunFolder(Protocol):
    """What a recipe of any kind says of its run folder."""

    if_exists: str

    def text(self) -> str:
        """Return the whole recipe as YAML."""


# What is done with a run once it is finished is no part of what the run is.
_AFTER = ("push_to_hub", "hub")


def can_resume(recipe: HasRunFolder, folder: RunFolder, what: str) -> bool:
    """Say whether a folder holds a run by this recipe, to be gone on with.

    Args:
        recipe: what is to be done. folder: where. what: such a run is called in messages: "run" or "pretraining".

    Raises:
        InputError: the folder cannot be written, or holds something else, or such a run and is not to be touched.
    """
    ours = yaml.safe_load(recipe.text())
    check_output(
        folder.path,
        what=f"a {what}",
        is_ours=lambda _: _is_run(folder, set(ours).difference(_AFTER)),
        overwrite=recipe.if_exists == "replace",
        resume=recipe.if_exists == "resume",
    )
    if recipe.if_exists != "resume" or not folder.config_file.is_file():
        return False
    held = folder.config
    if any(held.get(key) != value for key, value in ours.items() if key not in ("if_exists", "out", *_AFTER)):
        raise InputError(
            f"{folder.path}: holds a {what} by another recipe, which cannot be gone on with; name another --out"
        )
    return True


def resumes(recipe: HasRunFolder, folder: RunFolder, content: dict[str, Any], what: str) -> bool:
    """Say whether an earlier start is gone on with.

    Args:
        content: of split.json, as it would be written now.

    Raises:
        InputError: the data, and so the split, is no longer that of the earlier start.
    """
    if recipe.if_exists != "resume" or not folder.split_file.is_file():
        return False
    if json.loads(folder.split_file.read_text(encoding="utf-8")) != json.loads(json.dumps(content)):
        raise InputError(
            f"{folder.path}: the data, and so its split, changed since this {what} began; name another --out"
        )
    return True


def init_run_folder(recipe: HasRunFolder, folder: RunFolder, content: dict[str, Any]) -> None:
    """Put what is known before training into a folder of its own; what was there goes away whole."""
    remove_folder(folder.path)
    folder.path.mkdir(parents=True)
    folder.write_text(folder.config_file, recipe.text())
    folder.write_environment()
    folder.write_json(folder.split_file, content)


def _is_run(folder: RunFolder, keys: set[str]) -> bool:
    try:
        return keys <= folder.config.keys()
    except (OSError, TypeError, ValueError, AttributeError, yaml.YAMLError):
        return False
