"""A TCP port, taken before anything is made and opened when everything is there.

Whoever connects to a port that is taken and not open is told at once that nobody is there, and does
not wait for a model to be loaded.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import sys

from kspacesr_rt.errors import OutputError
from kspacesr_rt.services.node.peers import without_brackets


def bind_port(address: str, port: int, *, option: str = "--port") -> socket.socket:
    """Bind a socket, which does not listen yet.

    Parameters
    ----------
    address
        Address or name of this machine; ``::`` takes IPv4 too, whose senders it shows as
        ``::ffff:a.b.c.d``.
    port
        0 lets the system choose.
    option
        What an error's hint names.

    Raises
    ------
    OutputError
        If the address is not of this machine, or the port is taken or not allowed.
    """
    address = without_brackets(address)
    bound: socket.socket | None = None
    try:
        [(family, kind, protocol, _, place), *_] = socket.getaddrinfo(
            address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        bound = socket.socket(family, kind, protocol)
        if sys.platform != "win32":  # there it would let two programs have one port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            both = address == "::" and socket.has_dualstack_ipv6()
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not both))
        bound.bind(place)
    except OSError as exc:
        if bound is not None:
            bound.close()
        raise _refused(exc, address, port, option) from exc
    return bound


def open_port(bound: socket.socket, backlog: int, *, option: str = "--port") -> None:
    """Listen on a port that was taken.

    Raises
    ------
    OutputError
        If another program, which took it at the same moment, listens there already.
    """
    address, port = bound.getsockname()[:2]
    try:
        bound.listen(backlog)
    except OSError as exc:
        raise _refused(exc, str(address), int(port), option) from exc


def _refused(exc: OSError, address: str, port: int, option: str) -> OutputError:
    if isinstance(exc, socket.gaierror) or exc.errno in (
        errno.EADDRNOTAVAIL,
        errno.EAFNOSUPPORT,
        errno.ENODEV,
        errno.EINVAL,
    ):
        return OutputError(
            f"cannot listen on '{address}': {exc.strerror or exc}",
            hint="--bind names an address of this machine; 0.0.0.0 and :: are all of them",
        )
    return OutputError(
        f"cannot listen on port {port}: {exc.strerror or exc}",
        hint=f"choose another with {option}, above 1023 without special rights",
    )


def is_own_address(host: str) -> bool:
    """Return whether a name or address is this machine's; one that is not known is not."""
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except OSError:
        return False
    for family, kind, protocol, _, place in found:
        # Only the system knows all its addresses, and only they can be bound.
        with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as tried:
            tried.bind(place)
            return True
    return False
