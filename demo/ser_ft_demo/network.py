"""Where the page can be served: what gradio would find out late, port after port, and say otherwise."""

from __future__ import annotations

import errno
import os
import socket
import ssl

from ser_ft.cli.demo import Options
from ser_ft.utils.errors import InputError

_HERE = "127.0.0.1"


def check_address(options: Options) -> None:
    """See that the certificate can be used, and that the host and the port can be listened at.

    Raises:
        InputError: they cannot.
    """
    if options.certificate and options.key:
        _check_certificate(options.certificate, options.key)
    host = options.host or os.environ.get("GRADIO_SERVER_NAME") or _HERE
    port = options.port or os.environ.get("GRADIO_SERVER_PORT") or 0
    _check_free(host, port)
    if port:
        # gradio looks at this address whatever the host is.
        _check_free(_HERE, port)


def in_address(host: str | None) -> str | None:
    """Write a host as it stands in a page's address: "::1" in brackets."""
    return f"[{host.strip('[]')}]" if host and ":" in host else host


def _check_certificate(certificate: str, key: str) -> None:
    try:
        # A password would be asked for on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or (error.strerror if isinstance(error, OSError) else None)
        why = f" ({reason.replace('_', ' ').lower()})" if reason and "[SSL" not in reason else ""
        raise InputError(
            f"{certificate} and {key} are no certificate and its key, in PEM and without a password{why}"
        ) from error


def _check_free(host: str, port: int | str) -> None:
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"the page cannot be served at {host}: {why}") from error
    refused: list[OSError] = []
    for family, kind, protocol, _, address in found:
        try:
            with socket.socket(family, kind, protocol) as tried:
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                tried.bind(address)
        except OSError as error:
            refused.append(error)
    taken = [error for error in refused if error.errno == errno.EADDRINUSE]
    if taken:
        raise InputError(f"the page cannot be served: port {port} of {host} is taken") from taken[0]
    if len(refused) == len(found):
        at = f"port {port} of {host}" if port else host
        raise InputError(f"the page cannot be served at {at}: {refused[0].strerror}") from refused[0]
