"""Where the page is served: its sockets, its address, and the names of the hosts that it answers."""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from ser_ft.cli.demo import Options
from ser_ft.utils.errors import InputError

_LOCALHOST = "127.0.0.1"
_LOCAL_NAMES = {"localhost", _LOCALHOST, "::1"}
_ALL_NETWORKS = {"0.0.0.0", "::"}
_PORTS = range(7860, 7960)  # tried in this order if no port is given
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{1,5})?", re.IGNORECASE)
# Requests reach a Space through proxies of the Hub, which have addresses in these networks.
_PRIVATE_NETWORKS = "127.0.0.0/8,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,100.64.0.0/10,::1,fc00::/7"


@dataclass(frozen=True)
class ServedHosts:
    """The hosts that the page answers, so that no other page can reach it by a name that resolves to its address.

    Attributes:
        names: names and addresses without ports, in lower case.
        any_address: whether all IP addresses are answered, too: they cannot be names of other pages.
    """

    names: frozenset[str]
    any_address: bool

    def __contains__(self, host: str) -> bool:
        """Return whether a host, with or without a port, is answered."""
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match[1].lower().strip("[]").rstrip(".")
        return name in self.names or (self.any_address and _is_address(name))


def is_space() -> bool:
    """Return whether the page is served by the Hub."""
    return os.environ.get("SYSTEM") == "spaces"


def trusted_proxies() -> str:
    """Return the addresses of proxies whose X-Forwarded-For is believed, separated by commas."""
    return os.environ.get("FORWARDED_ALLOW_IPS", _PRIVATE_NETWORKS if is_space() else "")


def served_hosts(options: Options) -> ServedHosts:
    """Return the hosts that the page answers: this machine, `--host`, `--allow-host`, and where a proxy serves it."""
    host = _host(options)
    proxy = urlsplit(os.environ.get("GRADIO_ROOT_PATH", "")).hostname
    names = [*_LOCAL_NAMES, *options.allow_host, os.environ.get("SPACE_HOST"), proxy]
    if host in _ALL_NETWORKS:
        names += [socket.gethostname(), f"{socket.gethostname()}.local"]
    else:
        names.append(host)
    return ServedHosts(frozenset(name.lower() for name in names if name), host in _ALL_NETWORKS)


def open_sockets(options: Options) -> list[socket.socket]:
    """Bind the addresses of the host and port of the options, or of the first free port.

    Raises:
        InputError: the certificate is not valid, or the server cannot listen there.
    """
    if options.certificate and options.key:
        _check_certificate(options.certificate, options.key)
    host, port = _host(options), options.port or os.environ.get("GRADIO_SERVER_PORT")
    for number in [port] if port else _PORTS:
        try:
            return _bind(host, number)
        except InputError as error:
            if port or not isinstance(error.__cause__, OSError) or error.__cause__.errno != errno.EADDRINUSE:
                raise
    raise InputError(f"cannot serve the page: all ports from {_PORTS[0]} to {_PORTS[-1]} of {host} are in use")


def page_address(options: Options, sockets: Sequence[socket.socket]) -> str:
    """Return the URL of the page."""
    host = _host(options)
    name = "localhost" if host in _ALL_NETWORKS else f"[{host}]" if ":" in host else host
    return f"http{'s' if options.certificate else ''}://{name}:{sockets[0].getsockname()[1]}/"


def client_network(address: str) -> str:
    """Return what stands for a client: its IPv4 address, or the /64 network of its IPv6 address."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    return str(parsed.ipv4_mapped or ipaddress.ip_network((parsed, 64), strict=False))


def _host(options: Options) -> str:
    return (options.host or os.environ.get("GRADIO_SERVER_NAME") or _LOCALHOST).strip("[]")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


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


def _bind(host: str, port: int | str) -> list[socket.socket]:
    try:
        candidates = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot serve the page at {host}: {getattr(error, 'strerror', None) or error}") from error
    sockets: list[socket.socket] = []
    errors: list[OSError] = []
    for family, kind, protocol, _, address in candidates:
        try:
            candidate = socket.socket(family, kind, protocol)
        except OSError as error:
            errors.append(error)
            continue
        try:
            if os.name == "posix":
                candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                candidate.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            candidate.bind(address)
            candidate.listen()
            sockets.append(candidate)
        except OSError as error:
            candidate.close()
            errors.append(error)
    in_use = [error for error in errors if error.errno == errno.EADDRINUSE]
    if sockets and not in_use:
        return sockets
    for opened in sockets:
        opened.close()
    if in_use:
        raise InputError(f"cannot serve the page: port {port} of {host} is in use") from in_use[0]
    raise InputError(f"cannot serve the page at {host}, port {port}: {errors[0].strerror}") from errors[0]
