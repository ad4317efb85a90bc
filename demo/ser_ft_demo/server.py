"""The page as a whole, and how it is served."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path

from .temp_dir import make_home

# Before gradio is imported, which reads these once.
HOME = make_home()
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
os.environ |= {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GRADIO_TEMP_DIR": str(HOME / "files"),
}

import gradio as gr  # noqa: E402
from starlette.middleware import Middleware  # noqa: E402

from ser_ft.cli.demo import Options  # noqa: E402
from ser_ft.utils.errors import InputError  # noqa: E402

from . import about, analysis, compare, endpoints, examples, live, monitor, speak  # noqa: E402
from .components import AppState  # noqa: E402
from .limits import LIMITS, Limits  # noqa: E402
from .middleware import Guard, keep_swept  # noqa: E402
from .models import open_models  # noqa: E402
from .network import check_address, in_address  # noqa: E402

TITLE = "ser_ft: emotion in speech"
_BESIDE = Path(__file__).parent
_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif")
_HEADER = """
<header class="top"><h1>How does it sound?</h1>
<p>Emotion in speech, as ser_ft hears it: expression, not feeling, and often wrong.</p>
<div class="note heed insecure-only" role="note">Your browser gives no microphone to this page, since it is
served without https: only pages from https, or from the machine itself (localhost), may ask for it. Files can be
dropped all the same.</div>
</header>
"""
# gradio holds the rules of a stylesheet to its own element: this one begins above it.
_HEAD = "<style>.insecure .insecure-only { display: block !important; }</style>"


def make_state(options: Options, limits: Limits = LIMITS) -> AppState:
    """Open the models and make the examples.

    Raises:
        InputError: there is no such model.
    """
    models = open_models([options.model, *options.compare])
    files, examples_folder = HOME / "files", HOME / "examples"
    for folder in (files, examples_folder):
        folder.mkdir(parents=True, exist_ok=True)
    state = AppState(models, limits, files, examples.make_clips(examples_folder), examples.make_call(examples_folder))
    gr.set_static_paths([examples_folder])
    return state


def build(state: AppState) -> gr.Blocks:
    """Build the page."""
    limits = state.limits
    # What gradio deletes by itself is what `keep_swept` left behind: it asks first who needs it.
    page = gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(60, 2 * limits.kept))
    with page:
        gr.HTML(_HEADER)
        with gr.Tabs():
            for name, tab in (
                ("Speak", speak),
                ("Live", live),
                ("Conversation", monitor),
                ("Compare", compare),
                ("Analysis", analysis),
                ("About", about),
            ):
                with gr.Tab(name, id=name.lower()):
                    tab.build(state)
        endpoints.build(state)
    page.queue(max_size=limits.waiting, default_concurrency_limit=limits.at_once)
    return page


def start(state: AppState, options: Options) -> tuple[str, Callable[[], None]]:
    """Serve the page in the background.

    Returns:
        its address, and what stops it.

    Raises:
        InputError: it cannot be served at that address.
    """
    check_address(options)
    page = build(state)
    # What visitors send is not written down, and what gradio says of it is not ours.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        _, address, _ = page.launch(
            server_name=in_address(options.host),
            server_port=options.port,
            ssl_certfile=options.certificate,
            ssl_keyfile=options.key,
            ssl_verify=False,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            theme=_theme(),
            css_paths=_BESIDE / "style.css",
            head=_HEAD + f"<script>{(_BESIDE / 'page.js').read_text(encoding='utf-8')}</script>",
            app_kwargs={"middleware": [Middleware(Guard, home=state.home, limits=state.limits)]},  # type: ignore[arg-type]
            max_file_size=state.limits.file,
            footer_links=["api"],
            run_history=False,
            enable_monitoring=False,
            mcp_server=False,
            ssr_mode=False,
            pwa=False,
        )
    except OSError as error:
        raise InputError(f"the page cannot be served: {error}") from error
    swept = keep_swept(state.home, state.limits, lambda: asked_about(page))

    def stop() -> None:
        page.close(verbose=False)
        swept()

    return address, stop


def asked_about(page: gr.Blocks) -> list[str]:
    """Return the paths that a page's requests name, those that wait and those that are worked on."""
    events = list(page._queue.event_ids_to_events.values())
    given = [one for event in events if event.data for one in event.data.data if isinstance(one, dict)]
    return [one["path"] for one in given if isinstance(one.get("path"), str)]


def _theme() -> gr.themes.Base:
    """Return a theme of fonts that are there already, whose fainter words are still read with ease."""
    theme = gr.themes.Base(font=_FONTS, font_mono=("ui-monospace", "monospace"), primary_hue="blue")
    return theme.set(
        body_text_color_subdued="#5c6773",
        body_text_color_subdued_dark="#a0abb6",
        block_label_text_color="#4a545f",
        block_label_text_color_dark="#c3ccd5",
        input_placeholder_color="#66727f",
        input_placeholder_color_dark="#96a1ac",
    )


def serve(options: Options) -> None:
    """Serve the page until interrupted."""
    # What ends a server must end it as Ctrl-C does: with its files deleted.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    state = make_state(options)
    address, stop = start(state, options)
    print(f"ser-ft: the page is at {address} (stop it with Ctrl-C)", flush=True)
    try:
        threading.Event().wait()
    finally:
        stop()
