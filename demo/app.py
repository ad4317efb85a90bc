"""Recognise emotion in speech, in the browser: `python app.py`, or `ser-ft demo`; --help shows the options."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ser_ft.cli.demo import Options, read_options
from ser_ft.utils.errors import InputError, run_command, strip_debug_flag
from ser_ft.utils.files import MODEL_FILE


def serve(options: Options) -> None:
    """Serve the page until interrupted; a model that `model.txt` beside this file names takes the shipped one's place.

    Raises:
        InputError: gradio is missing, there is no such model, or the page cannot be served there.
    """
    try:
        from ser_ft_demo import server
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "gradio":
            raise
        raise InputError('the page needs gradio: pip install "gradio>=6.31,<7"') from error
    named = Path(__file__).with_name(MODEL_FILE)
    if options.model == Options.model and named.is_file():
        options = replace(options, model=named.read_text(encoding="utf-8").strip())
    server.serve(options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the options and serve; return the exit code: 2 for wrong input, 130 when interrupted."""
    return run_command(lambda: serve(read_options(strip_debug_flag(arguments))))


if __name__ == "__main__":
    sys.exit(main())
