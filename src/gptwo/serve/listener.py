"""The socket that a server listens at. Opened before anything is loaded, so nothing heavy is imported here."""

from __future__ import annotations

import ipaddress
import socket

from gptwo.base.errors import ConfigError
from gptwo.serve.settings import REFUSED_AT_ONCE, ServeSettings

# Descriptors beside those of connections: standard streams, this socket, weights, the tokenizer, the event loop's own.
_OTHER_DESCRIPTORS = 64
# Of the system: connections that nobody has accepted yet.
_BACKLOG = 2048


def open_socket(settings: ServeSettings) -> socket.socket:
    """The socket that ``settings`` say, listening. ``ConfigError`` when that is not possible."""
    _require_descriptors(settings.max_connections)
    where = f"port {settings.port} on {settings.host}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(
            f"the host {settings.host!r} is not possible: {error.strerror}; expected an address of this machine"
        ) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen at {where}: {error.strerror}; choose another --port, or 0 for one that is free"
        ) from error
    return listener


def url_of(listener: socket.socket) -> str:
    """Where the socket is reached from this machine, or from others when it has one address."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_open_to_others(listener: socket.socket) -> bool:
    """Whether other machines may reach it."""
    host = listener.getsockname()[0].partition("%")[0]
    return not ipaddress.ip_address(host).is_loopback


def _require_descriptors(connections: int) -> None:
    """Let the process have one for each connection, as far as the system allows."""
    try:
        import resource
    except ImportError:  # Windows, where sockets are not counted so
        return
    needed = connections + REFUSED_AT_ONCE + _OTHER_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ConfigError(
            f"max_connections={connections} needs {needed} file descriptors, and the system allows {hard}; "
            f"expected --max-connections {max(1, hard - needed + connections)} or less, or a higher ulimit -n"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
