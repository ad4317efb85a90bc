"""ser_ft: fine-tuning of pretrained speech models for speech emotion recognition.

The public names, which are imported on first use:

    load_corpora       folders of recordings -> one `datasets.Dataset` under one label scheme
    load_table         any dataset of the Hub or on disk -> the same, by naming its columns
    prepare            write the dataset to a folder; `open_prepared` reads it back
    make_split         training, validation and test speakers; `read_split` reads a file
    Recipe, run        a complete run, from recordings to a reported model
    sweep              many runs: folds, corpora, seeds
    evaluate           evaluation of an existing model on any prepared dataset
    fuse               several runs combined into an ensemble
    RunFolder          a run on disk
    push               upload of a run to the Hub with a model card
    EmotionRecognizer  emotion recognition in files, arrays and streams
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

from .utils.auto_classes import register_models
from .utils.telemetry import disable_telemetry

if TYPE_CHECKING:
    from .config.schema import Recipe as Recipe
    from .data.prepare import load_corpora as load_corpora
    from .data.prepare import load_table as load_table
    from .data.prepare import open_prepared as open_prepared
    from .data.prepare import prepare as prepare
    from .data.splits import make_split as make_split
    from .data.splits import read_split as read_split
    from .evaluation.ensemble import fuse as fuse
    from .evaluation.evaluate import evaluate as evaluate
    from .evaluation.run_folder import RunFolder as RunFolder
    from .hub.publish import push as push
    from .inference.recognizer import EmotionRecognizer as EmotionRecognizer
    from .pipeline import run as run
    from .pipeline import sweep as sweep
    from .utils.errors import InputError as InputError

_MODULES = {
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
__all__ = list(_MODULES)
__version__ = metadata.version("ser_ft")

disable_telemetry()
register_models()


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
