"""The command `ser-ft demo`: the page, which lies in demo/ and needs gradio."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ..models import SHIPPED
from ..utils.errors import InputError
from ..utils.files import demo_folder

_ABOUT = "recognise emotion in speech in the browser: speak, drop a file, watch a call"
_MORE = (
    ". It starts without a network on the model that ships with ser_ft, and serves this machine alone unless --host "
    'says otherwise. It needs gradio: pip install "gradio>=6.31,<7". It is expression that is recognised, not feeling.'
)


@dataclass(frozen=True)
class Options:
    """How the page is served.

    Attributes:
        model: that answers. compare: others, beside it in Compare.
        host: address that is listened at; None: this machine alone, or what GRADIO_SERVER_NAME says.
        port: None: the first that is free from 7860 on, or what GRADIO_SERVER_PORT says.
        certificate, key: files, for https.
    """

    model: str = SHIPPED
    compare: tuple[str, ...] = ()
    host: str | None = None
    port: int | None = None
    certificate: str | None = None
    key: str | None = None


def add_demo(commands: argparse._SubParsersAction[Any]) -> None:
    """Add `ser-ft demo`."""
    parser = commands.add_parser("demo", help=_ABOUT, description=_ABOUT.capitalize() + _MORE)
    _add_options(parser)
    parser.set_defaults(work=_demo)


def read_options(arguments: Sequence[str] | None = None) -> Options:
    """Read the options of demo/app.py, which are those of `ser-ft demo`."""
    parser = _Parser(prog="app.py", description=_ABOUT.capitalize() + _MORE)
    _add_options(parser)
    return _options(parser.parse_args(arguments))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise InputError(f"{message} (see {self.prog} --help)")


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        default=SHIPPED,
        metavar="MODEL",
        help="a run folder, an .onnx file, or a name on the Hub (default: ser_ft's own)",
    )
    parser.add_argument(
        "--compare", action="append", default=[], metavar="MODEL", help="another model, for Compare; may be repeated"
    )
    parser.add_argument("--host", metavar="ADDRESS", help="0.0.0.0 serves the network (default: this machine alone)")
    parser.add_argument("--port", type=int, metavar="N", help="default: the first that is free from 7860 on")
    parser.add_argument(
        "--certificate", metavar="FILE", help="for https, without which browsers give others no microphone"
    )
    parser.add_argument("--key", metavar="FILE", help="of the certificate")


def _options(chosen: argparse.Namespace) -> Options:
    if (chosen.certificate is None) != (chosen.key is None):
        raise InputError("https needs both --certificate and --key")
    for file in filter(None, (chosen.certificate, chosen.key)):
        if not Path(file).is_file():
            raise InputError(f"{file}: no such file")
    if chosen.port is not None and not 0 < chosen.port < 65536:
        raise InputError(f"--port is a number from 1 to 65535, not {chosen.port}")
    return Options(chosen.model, tuple(chosen.compare), chosen.host, chosen.port, chosen.certificate, chosen.key)


def _demo(chosen: argparse.Namespace) -> int:
    options = _options(chosen)
    sys.path.insert(0, str(demo_folder()))
    import_module("app").serve(options)
    return 0
