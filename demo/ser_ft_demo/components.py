"""What the tabs share: how files are asked for, how answers and errors are shown, and the limits on requests."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr
from gradio_client.utils import is_http_url_like

from ser_ft.monitor.timeline import colours

from .limits import Limits
from .messages import sentence
from .models import Model

_Given = TypeVar("_Given", gr.Audio, gr.File)


@dataclass(frozen=True)
class AppState:
    """What every tab works with.

    Attributes:
        models: that answer. limits: of requests. home: the folder of all files that are kept for a while.
        examples: a label and a file each. call: the example of a conversation.
    """

    models: Sequence[Model]
    limits: Limits
    home: Path
    examples: Sequence[tuple[str, Path]]
    call: Path

    @property
    def model(self) -> Model:
        """The one that answers where one is asked."""
        return self.models[0]

    @property
    def fills(self) -> dict[str, str]:
        """The colour of each of its classes."""
        return dict(colours(self.model.recognise.info.classes))

    def folder(self) -> Path:
        """Make a folder for what is made for one visitor; it goes as uploads do."""
        return Path(tempfile.mkdtemp(dir=self.home))

    @property
    def together(self) -> dict[str, Any]:
        """How many requests that compute are worked on at a time, for events."""
        return {"concurrency_id": "compute", "concurrency_limit": self.limits.at_once}


def ask(label: str = "Recording", **settings: Any) -> gr.Audio:
    """Ask for a recording: spoken, dropped or chosen."""
    sources: list[Any] = ["upload", "microphone"]
    return files_only(gr.Audio(sources=sources, type="filepath", label=label, buttons=[], editable=False, **settings))


def files_only(component: _Given) -> _Given:
    """Have a component take files that visitors gave, and no addresses, which the server would fetch for them."""
    move = component.async_move_resource_to_block_cache

    async def moved(url_or_file_path: str | Path | None) -> str | None:
        if url_or_file_path is not None and is_http_url_like(str(url_or_file_path)):
            raise gr.Error("Give a file: addresses are not fetched.", print_exception=False)
        return await move(url_or_file_path)

    component.async_move_resource_to_block_cache = moved  # type: ignore[method-assign]
    return component


def examples(state: AppState, recording: gr.Audio) -> None:
    """Offer the examples that ship with the page."""
    gr.Examples(
        [[str(file)] for _, file in state.examples],
        [recording],
        label="Or try one of these: synthetic voices, made by a program and spoken by nobody",
        example_labels=[label for label, _ in state.examples],
        cache_examples=False,
        api_visibility="private",
    )


def alert(text: str) -> str:
    """Show what went wrong."""
    return f'<div class="note alert" role="alert">{escape(text)}</div>'


def hint(text: str) -> str:
    """Show what there is to do."""
    return f'<p class="hint">{escape(text)}</p>'


def errors_as_html(work: Callable[..., str], empty: str) -> Callable[..., str]:
    """Make a function of a recording's path, and more, one whose errors are shown instead of its answer.

    Args:
        work: returns HTML. empty: what is shown without a recording.
    """

    def answer(path: str | None, *more: Any) -> str:
        if not path:
            return hint(empty)
        try:
            return work(path, *more)
        except Exception as error:
            return alert(sentence(error, path))

    return answer


def errors_as_api(work: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function of a recording's path, and more, one whose errors reach programs as one plain sentence."""

    def answer(path: str | None, *more: Any) -> Any:
        try:
            return work(path, *more)
        except Exception as error:
            raise gr.Error(sentence(error, path), print_exception=False) from error

    return answer
