"""Checks the address of the page, because gradio reports errors late, after trying many ports."""

from __future__ import annotations

import errno
import os
import socket
import ssl

from ser_ft.cli.demo import Options
from ser_ft.utils.errors import InputError

_LOCALHOST = "127.0.0.1"


def check_address(options: Options) -> None:
    """Check that the certificate is valid, and that the server can listen at the host and port.

    Raises:
        InputError: one of them cannot be used.
    """
    if options.certificate and options.key:
        _check_certificate(options.certificate, options.key)
    host = options.host or os.environ.get("GRADIO_SERVER_NAME") or _LOCALHOST
    port = options.port or os.environ.get("GRADIO_SERVER_PORT") or 0
    _check_free(host, port)
    if port:
        # gradio checks the port at this address whatever the host is.
        _check_free(_LOCALHOST, port)


def url_host(host: str | None) -> str | None:
    """Return a host as it is written in a URL: IPv6 addresses in brackets."""
    return f"[{host.strip('[]')}]" if host and ":" in host else host


def _check_certificate(certificate: str, key: str) -> None:
    try:
        # Without a password, OpenSSL would ask for one on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or (error.strerror if isinstance(error, OSError) else None)
        details = f" ({reason.replace('_', ' ').lower()})" if reason and "[SSL" not in reason else ""
        raise InputError(
            f"{certificate} and {key} are not a certificate and its key in PEM format without a password{details}"
        ) from error


def _check_free(host: str, port: int | str) -> None:
    try:
        candidates = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot serve the page at {host}: {getattr(error, 'strerror', None) or error}") from error
    errors: list[OSError] = []
    for family, kind, protocol, _, address in candidates:
        try:
            with socket.socket(family, kind, protocol) as candidate:
                candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                candidate.bind(address)
        except OSError as error:
            errors.append(error)
    in_use = [error for error in errors if error.errno == errno.EADDRINUSE]
    if in_use:
        raise InputError(f"cannot serve the page: port {port} of {host} is in use") from in_use[0]
    if len(errors) == len(candidates):
        address_text = f"port {port} of {host}" if port else host
        raise InputError(f"cannot serve the page at {address_text}: {errors[0].strerror}") from errors[0]
