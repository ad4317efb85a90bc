"""Builds the page and serves it."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

from ser_ft.cli.demo import Options
from ser_ft.utils.atomic import make_temp_dir, release_folder
from ser_ft.utils.errors import AUDIO_LOGGER

from .temp_dir import start_cleanup

# Set before gradio is imported, because it reads this variable only once.
TEMP_DIR = make_temp_dir()
atexit.register(release_folder, TEMP_DIR)
os.environ["GRADIO_TEMP_DIR"] = str(TEMP_DIR / "files")

import gradio as gr  # noqa: E402
from fastapi import FastAPI  # noqa: E402

from . import about, analysis, compare, endpoints, examples, live, monitor, speak  # noqa: E402
from .http_server import start_server  # noqa: E402
from .memory import return_freed_memory  # noqa: E402
from .middleware import SecurityMiddleware  # noqa: E402
from .network import is_space, open_sockets, page_address, served_hosts  # noqa: E402
from .sessions import Requests, forget_files, paths_in_use  # noqa: E402
from .state import LIMITS, AppState, Limits, open_models  # noqa: E402

TITLE = "ser_ft: speech emotion recognition"
TABS = {
    "Speak": speak,
    "Live": live,
    "Conversation": monitor,
    "Compare": compare,
    "Analysis": analysis,
    "About": about,
}
_FOLDER = Path(__file__).parent
_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif")
_HEADER = """
<header class="top"><h1>How does it sound?</h1>
<p>Speech emotion recognition with ser_ft. It recognizes expression, not feeling, and is often wrong.</p>
<div class="note heed insecure-only" role="note">Your browser does not let this page use the microphone, because the
page is served without https. Only pages with https, or from this machine itself (localhost), can use it. You can still
drop files.</div>
</header>
"""
# gradio applies style sheets only within its own element; this rule starts outside of it.
_HEAD = "<style>.insecure .insecure-only { display: block !important; }</style>"


def make_state(options: Options, limits: Limits = LIMITS) -> AppState:
    """Open the models and generate the examples.

    Raises:
        InputError: a model does not exist.
    """
    models = open_models([options.model, *options.compare], options.allow_pickle)
    files, examples_folder = TEMP_DIR / "files", TEMP_DIR / "examples"
    for folder in (files, examples_folder):
        folder.mkdir(parents=True, exist_ok=True)
    clips, conversation = examples.write_clips(examples_folder), examples.write_conversation(examples_folder)
    gr.set_static_paths([examples_folder])
    return AppState(models, limits, files, clips, conversation)


def build(state: AppState) -> gr.Blocks:
    """Build the page."""
    limits = state.limits
    # The page's own cleanup deletes files earlier, except those in use; gradio deletes what it leaves.
    page = gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(60, 2 * limits.retention_seconds))
    with page:
        gr.HTML(_HEADER)
        with gr.Tabs():
            for name, tab in TABS.items():
                with gr.Tab(name, id=name.lower()):
                    tab.build(state)
        endpoints.build(state)
    page.queue(default_concurrency_limit=limits.concurrent_requests, api_open=False)
    return page


def start(state: AppState, options: Options) -> tuple[str, Callable[[], None]]:
    """Serve the page in the background.

    Returns:
        The address of the page, and a function that stops it.

    Raises:
        InputError: the page cannot be served at the host and port of the options.
    """
    sockets = open_sockets(options)
    page = build(state)
    Requests(page, state.limits)
    # gradio logs its requests, which may contain file names of visitors.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger(AUDIO_LOGGER).disabled = True  # its warnings name the files of visitors
    app = gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        page,
        "/",
        theme=_theme(),
        css_paths=_FOLDER / "style.css",
        head=_HEAD + f"<script>{(_FOLDER / 'page.js').read_text(encoding='utf-8')}</script>",
        max_file_size=state.limits.file_bytes,
        footer_links=["api"],
        show_error=False,
        run_history=False,
        enable_monitoring=False,
        mcp_server=False,
        ssr_mode=False,
        pwa=False,
    )
    # gradio checks which files it may read only where this is set, which it does for pages that it serves itself.
    page.has_launched = True
    secured = SecurityMiddleware(app, state.temp_dir, state.limits, served_hosts(options), is_space())
    address, stop_server = page_address(options, sockets), start_server(secured, sockets, options)
    stop_cleanup = start_cleanup(
        state.temp_dir, state.limits.retention_seconds, lambda: paths_in_use(page), lambda: forget_files(page)
    )

    def stop() -> None:
        page.close(verbose=False)
        stop_server()
        stop_cleanup()

    return address, stop


def _theme() -> gr.themes.Base:
    """Return a theme with installed fonts and enough contrast in its fainter text."""
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
    """Serve the page until it is interrupted."""
    # SIGTERM stops the page like Ctrl-C, so that its files are deleted.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return_freed_memory()
    address, stop = start(make_state(options), options)
    print(f"ser-ft: the page is at {address} (press Ctrl-C to stop)", flush=True)
    try:
        threading.Event().wait()
    finally:
        stop()
