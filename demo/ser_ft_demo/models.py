"""The models that answer on the page: the first everywhere, all of them in Compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ser_ft.inference.recognizer import EmotionRecognizer
from ser_ft.models import SHIPPED, resolve_model_path


@dataclass(frozen=True)
class Model:
    """A model on the page: its name there, what it was asked for by, what recognises with it, and its card."""

    name: str
    source: str
    recognise: EmotionRecognizer
    card: str | None


def open_models(sources: Sequence[str]) -> list[Model]:
    """Open models, each once.

    Args:
        sources: as `EmotionRecognizer` takes them; the model that ships with ser_ft is "shipped".

    Raises:
        InputError: there is no such model.
    """
    found: list[Model] = []
    for source in dict.fromkeys(sources):
        recognise = EmotionRecognizer(None if source == SHIPPED else source)
        name = recognise.info.name
        alike = sum(model.recognise.info.name == name for model in found)
        name = f"{name} ({alike + 1})" if alike else name
        found.append(Model(name, source, recognise, _card(source)))
    return found


def _card(source: str) -> str | None:
    """Return the text of a model's card, less its metadata, where it lies on this machine."""
    folder = Path(resolve_model_path(source)).expanduser()
    try:
        file = next(f for f in (folder / "model" / "README.md", folder / "README.md") if f.is_file())
        text = file.read_text(encoding="utf-8")
    except (StopIteration, OSError, UnicodeDecodeError):
        return None
    if text.startswith("---"):
        text = text.split("\n---", 1)[-1].split("\n", 1)[-1]
    return text.strip() or None
