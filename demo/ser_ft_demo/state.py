"""What all tabs share: the models, the limits of the page, and the example recordings."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ser_ft.inference.recognizer import EmotionRecognizer
from ser_ft.models import resolve_model_path
from ser_ft.monitor.timeline import class_colors


@dataclass(frozen=True)
class Limits:
    """Limits that keep the page usable for several visitors.

    Attributes:
        file_bytes: size of one upload.
        disk_bytes: size of all files of the page, including uploads in progress.
        clip_seconds: length of a recording that is recognized as a whole.
        client_bytes: size of what one client uploads within `retention_seconds`.
        client_uploads: uploads of one client that are read at a time; others wait.
        memory_bytes: size of all requests, except uploads, that are being read.
        bytes_per_second: the least rate of a request after its first `grace_seconds`.
        concurrent_requests: requests, except those of live streams, that are processed at a time.
        waiting_requests: requests that wait, are processed, or have a result that was not fetched yet.
        client_requests: such requests of one client.
        unread_seconds: time for which a result can be fetched.
        sessions: visitors whose settings of the page are remembered by the server.
        retention_seconds: age at which files are deleted that no request refers to.
    """

    file_bytes: int = 200 * 2**20
    disk_bytes: int = 4 * 2**30
    client_bytes: int = 2**30
    client_uploads: int = 64
    memory_bytes: int = 2**26
    bytes_per_second: float = 2.0**14
    grace_seconds: float = 20.0
    clip_seconds: float = 120.0
    analysis_seconds: float = 15.0
    conversation_seconds: float = 3600.0
    live_seconds: int = 600
    live_streams: int = 6
    client_live_streams: int = 4
    concurrent_requests: int = 2
    waiting_requests: int = 200
    client_requests: int = 50
    unread_seconds: float = 120.0
    sessions: int = 50
    retention_seconds: int = 600


LIMITS = Limits()


@dataclass(frozen=True)
class Model:
    """A model of the page.

    Attributes:
        name: unique on the page.
        source: as the user wrote it: a path, a name on the Hub, "shipped" or "small".
        card: text of the model card; None if there is none on this machine.
    """

    name: str
    source: str
    recognizer: EmotionRecognizer
    card: str | None


def open_models(sources: Sequence[str], allow_pickle: bool = False) -> list[Model]:
    """Open run folders, .onnx files, models on the Hub, and those that ship with ser_ft; each once.

    Raises:
        InputError: a model does not exist, or its weights are pickled and `allow_pickle` is not set.
    """
    models: list[Model] = []
    for source in dict.fromkeys(sources):
        recognizer = EmotionRecognizer(source, allow_pickle=allow_pickle)
        name = recognizer.info.name
        count = sum(model.recognizer.info.name == name for model in models)
        models.append(Model(f"{name} ({count + 1})" if count else name, source, recognizer, _read_card(source)))
    return models


def _read_card(source: str) -> str | None:
    """Return the text of a model card without its metadata."""
    folder = Path(resolve_model_path(source)).expanduser()
    try:
        file = next(file for file in (folder / "model" / "README.md", folder / "README.md") if file.is_file())
        text = file.read_text(encoding="utf-8")
    except (StopIteration, OSError, UnicodeDecodeError):
        return None
    if text.startswith("---"):
        text = text.split("\n---", 1)[-1].split("\n", 1)[-1]
    return text.strip() or None


@dataclass(frozen=True)
class AppState:
    """What all tabs share.

    Attributes:
        temp_dir: folder of all files that are deleted after a while.
        examples: label and file of each example recording.
        conversation: example of a conversation.
    """

    models: Sequence[Model]
    limits: Limits
    temp_dir: Path
    examples: Sequence[tuple[str, Path]]
    conversation: Path

    @property
    def model(self) -> Model:
        """The model that is used outside the tab Compare."""
        return self.models[0]

    @property
    def colors(self) -> dict[str, str]:
        """The color of each class of `model`."""
        return dict(class_colors(self.model.recognizer.info.classes))

    def new_folder(self) -> Path:
        """Create a folder for the output of one request; it is deleted like uploads."""
        return Path(tempfile.mkdtemp(dir=self.temp_dir))

    @property
    def compute_options(self) -> dict[str, Any]:
        """Options of gradio events that limit how many requests compute at a time."""
        return {"concurrency_id": "compute", "concurrency_limit": self.limits.concurrent_requests}
