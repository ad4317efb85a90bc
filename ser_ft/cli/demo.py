"""`ser-ft demo`: the web page in demo/, which needs gradio."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from ..models import SHIPPED
from ..utils.errors import InputError
from ..utils.files import demo_folder
from .arguments import Commands, Parser, add_allow_pickle, add_command

_ABOUT = "recognize emotion in speech in the browser: speak, drop a file, analyze a conversation"
_DETAILS = (
    "It starts without a network, with the model that ships with ser_ft, and only this machine can open it unless "
    '--host is given. It needs gradio: pip install "gradio>=6.31,<7". The model recognizes expression, not feeling.'
)


@dataclass(frozen=True)
class Options:
    """How the page is served.

    Attributes:
        compare: further models for the tab Compare.
        host: address to listen at; None for this machine only, or GRADIO_SERVER_NAME.
        allow_host: further names at which the page is opened, such as that of a proxy.
        port: None for the first free port from 7860 on, or GRADIO_SERVER_PORT.
        certificate: file with the certificate for https; `key` is the file with its key.
        allow_pickle: also load pickled weights.
    """

    model: str = SHIPPED
    compare: tuple[str, ...] = ()
    host: str | None = None
    allow_host: tuple[str, ...] = ()
    port: int | None = None
    certificate: str | None = None
    key: str | None = None
    allow_pickle: bool = False


def add_demo(commands: Commands) -> None:
    """Add `ser-ft demo`."""
    _add_options(add_command(commands, "demo", _demo, _ABOUT, _DETAILS))


def read_options(arguments: Sequence[str] | None = None) -> Options:
    """Read the options of demo/app.py, which are those of `ser-ft demo`."""
    parser = Parser(prog="app.py", description=f"{_ABOUT.capitalize()}. {_DETAILS}")
    _add_options(parser)
    return _to_options(parser.parse_args(arguments))


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    model = "a run folder, an .onnx file, or a model on the Hub (default: the model that ships with ser_ft)"
    add("--model", default=SHIPPED, metavar="MODEL", help=model)
    compare = "another model for the tab Compare; may be repeated"
    add("--compare", action="append", default=[], metavar="MODEL", help=compare)
    host = "address to listen at; 0.0.0.0 for all networks (default: this machine only)"
    add("--host", metavar="ADDRESS", help=host)
    allow_host = (
        "name at which the page is opened, besides the address and the name of this machine, such as that of a proxy; "
        "may be repeated (requests to other names are refused, so that other sites cannot reach the page)"
    )
    add("--allow-host", action="append", default=[], metavar="NAME", help=allow_host)
    add("--port", type=int, metavar="N", help="port (default: the first free port from 7860 on)")
    certificate = "certificate for https, which browsers of other machines need to use the microphone"
    add("--certificate", metavar="FILE", help=certificate)
    add("--key", metavar="FILE", help="key of the certificate")
    add_allow_pickle(parser)


def _to_options(arguments: argparse.Namespace) -> Options:
    if (arguments.certificate is None) != (arguments.key is None):
        raise InputError("https needs both --certificate and --key")
    for file in filter(None, (arguments.certificate, arguments.key)):
        if not Path(file).is_file():
            raise InputError(f"{file}: no such file")
    if arguments.port is not None and not 0 < arguments.port < 65536:
        raise InputError(f"--port must be a number from 1 to 65535, not {arguments.port}")
    values = {name: value for name, value in vars(arguments).items() if name in Options.__dataclass_fields__}
    return Options(**values | {"compare": tuple(arguments.compare), "allow_host": tuple(arguments.allow_host)})


def _demo(arguments: argparse.Namespace) -> None:
    options = _to_options(arguments)
    sys.path.insert(0, str(demo_folder()))
    import_module("app").serve(options)
