"""Recognise emotion in speech, in the browser: `python app.py`, or `ser-ft demo`; --help shows the options."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ser_ft.cli.demo import Options, read_options
from ser_ft.errors import InputError, guarded, without_debug


def serve(options: Options) -> None:
    """Serve the page until interrupted.

    Raises:
        InputError: gradio is missing, there is no such model, or the page cannot be served there.
    """
    try:
        from ser_ft_demo import server
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "gradio":
            raise
        raise InputError('the page needs gradio: pip install "ser_ft[demo]"') from error
    server.serve(options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the options and serve; return the exit code: 2 for wrong input, 130 when interrupted."""
    return guarded(lambda: serve(read_options(without_debug(arguments))))


if __name__ == "__main__":
    sys.exit(main())
