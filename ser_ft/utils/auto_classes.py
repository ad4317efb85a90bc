"""Our networks behind the Auto classes, as soon as there are Auto classes: `import ser_ft` alone stays quick."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_AUTO = "transformers.models.auto.modeling_auto"


def register() -> None:
    """Make transformers know our networks: now where its Auto classes are loaded, else when they will be."""
    if _AUTO in sys.modules:
        _import_networks()
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _import_networks() -> None:
    for name in ("baselines", "compact", "spectrogram"):
        import_module(f"ser_ft.models.{name}")


class _Finder(MetaPathFinder):
    """Finds the module of the Auto classes as anyone would, and has ours imported after it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _AUTO:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        _import_networks()
