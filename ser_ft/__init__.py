"""ser_ft: fine-tune pretrained speech models to recognise emotion in speech.

The public names, imported when they are first used:

    load_corpora   folders of recordings -> one `datasets.Dataset` under one label scheme
    load_table     any data set of the Hub or on disk, by naming its columns
    prepare        the same, written to a folder; open_prepared reads it back
    make_split     who is trained on, validated on, tested on
    Recipe, run    a whole run, from recordings to a reported model
    sweep          many of them: folds, corpora, seeds
    evaluate       a model that is there, on any prepared data
    fuse           several runs into one system
    RunFolder      a run on disk
    push           a run on the Hub, with a card that fills itself
    EmotionRecognizer  what is said with which emotion, in any sound
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

from .utils.auto_classes import register

if TYPE_CHECKING:
    from .config.schema import Recipe
    from .data.prepare import load_corpora, load_table, open_prepared, prepare
    from .data.splits import make_split, read_split
    from .evaluation.ensemble import fuse
    from .evaluation.evaluate import evaluate
    from .evaluation.run_folder import RunFolder
    from .hub.publish import push
    from .inference.recognizer import EmotionRecognizer
    from .pipeline import run, sweep
    from .utils.errors import InputError

_HOMES = {
    "EmotionRecognizer": "inference.recognizer",
    "InputError": "utils.errors",
    "Recipe": "config.schema",
    "RunFolder": "evaluation.run_folder",
    "evaluate": "evaluation.evaluate",
    "fuse": "evaluation.ensemble",
    "load_corpora": "data.prepare",
    "load_table": "data.prepare",
    "make_split": "data.splits",
    "open_prepared": "data.prepare",
    "prepare": "data.prepare",
    "push": "hub.publish",
    "read_split": "data.splits",
    "run": "pipeline",
    "sweep": "pipeline",
}
__all__ = [
    "EmotionRecognizer",
    "InputError",
    "Recipe",
    "RunFolder",
    "evaluate",
    "fuse",
    "load_corpora",
    "load_table",
    "make_split",
    "open_prepared",
    "prepare",
    "push",
    "read_split",
    "run",
    "sweep",
]
__version__ = metadata.version("ser_ft")

register()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
