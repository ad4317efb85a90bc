"""Registration of our models with the Auto classes of transformers, without importing transformers.

Registering needs the model classes, whose import takes seconds. `import ser_ft` only installs an import hook, which
registers them right after the Auto classes themselves are imported.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_AUTO_CLASSES = "transformers.models.auto.modeling_auto"
_MODEL_MODULES = ("baselines", "compact", "spectrogram", "speech_classifier")


def register_models() -> None:
    """Register our models: now if the Auto classes are imported already, else when they are."""
    if _AUTO_CLASSES in sys.modules:
        _import_models()
    elif not any(isinstance(finder, _AutoClassesFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AutoClassesFinder())


def _import_models() -> None:
    for name in _MODEL_MODULES:
        import_module(f"ser_ft.models.{name}")


class _AutoClassesFinder(MetaPathFinder):
    """Finds the module of the Auto classes as usual, and imports our models after it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname == _AUTO_CLASSES else None
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                _import_models()

            setattr(spec.loader, "exec_module", execute_and_register)  # noqa: B010
        return spec
