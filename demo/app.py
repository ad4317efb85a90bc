"""The page of ser_ft in the browser: `python app.py`, or `ser-ft demo`; --help shows the options."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ser_ft.cli.demo import Options, read_options
from ser_ft.utils.errors import InputError, run_command, strip_debug_flag
from ser_ft.utils.files import MODEL_FILE


def serve(options: Options) -> None:
    """Serve the page until it is interrupted. The file model.txt in this folder can name the default model.

    Raises:
        InputError: gradio is not installed, a model does not exist, or the page cannot be served at the address.
    """
    try:
        from ser_ft_demo import server
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "gradio":
            raise
        raise InputError('the page needs gradio: pip install "gradio>=6.31,<7"') from error
    model_file = Path(__file__).with_name(MODEL_FILE)
    if options.model == Options.model and model_file.is_file():
        options = replace(options, model=model_file.read_text(encoding="utf-8").strip())
    server.serve(options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the options and serve the page; return the exit code: 2 for wrong input, 130 if interrupted."""
    return run_command(lambda: serve(read_options(strip_debug_flag(arguments))))


if __name__ == "__main__":
    sys.exit(main())
