"""Who may send to the node, and where it sends to: ``AE@host`` and ``AE@host:port``."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from kspacesr_rt.errors import InputError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

LOOPBACK: Final = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))
_TITLE: Final = re.compile(r"[ -\[\]-~]{1,16}")
"""ASCII without control characters and backslash, at most 16 (PS3.5 6.2, AE)."""
_BRACKETED: Final = re.compile(r"\[(?P<host>[^\]]+)\]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """A sender that is accepted."""

    ae_title: str | None
    """Its title; None accepts any."""
    networks: tuple[Network, ...]
    """Where it may come from."""

    def is_at(self, address: str) -> bool:
        """Return whether this peer may come from an address, under whatever title."""
        found = _normal(ipaddress.ip_address(address.partition("%")[0]))
        return any(found in network for network in self.networks)

    def is_from(self, ae_title: str, address: str) -> bool:
        """Return whether an association is this peer's."""
        return self.is_at(address) and self.ae_title in (None, ae_title.strip())


ANY_ON_THIS_MACHINE: Final = Peer(ae_title=None, networks=LOOPBACK)
"""Who is accepted when nobody is named."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A node that derived series are sent to."""

    ae_title: str
    """Its title."""
    host: str
    """Its name or address."""
    port: int
    """Its TCP port."""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.ae_title}@{host}:{self.port}"


def require_title(title: str) -> str:
    """Return an AE title without the blanks around it.

    Raises
    ------
    InputError
        If it is none.
    """
    stripped = title.strip()
    if not _TITLE.fullmatch(stripped):
        raise InputError(
            f"'{title}' is no AE title",
            hint="1 to 16 ASCII characters, without backslash",
        )
    return stripped


def parse_peer(text: str) -> Peer:
    """Return the sender that ``AE@host`` names; the host is a name, an address or a network.

    Raises
    ------
    InputError
        If the text is not of that form, or the name has no address.
    """
    title, separator, host = text.rpartition("@")
    if not separator or not host:
        raise InputError(f"--accept is AE@host, not '{text}'", hint="for example MRI1@10.1.2.3")
    bracketed = _BRACKETED.fullmatch(host)
    return Peer(
        ae_title=require_title(title), networks=_networks(bracketed["host"] if bracketed else host)
    )


def parse_target(text: str) -> Target:
    """Return the node that ``AE@host:port`` names.

    Raises
    ------
    InputError
        If the text is not of that form.
    """
    title, _, place = text.rpartition("@")
    host, _, port = place.rpartition(":")
    bracketed = _BRACKETED.fullmatch(host)
    if not title or not host or not port.isascii() or not port.isdigit():
        raise InputError(
            f"--forward is AE@host:port, not '{text}'", hint="for example PACS@10.1.2.3:104"
        )
    if not 0 < int(port) < 1 << 16:
        raise InputError(f"there is no TCP port {port}")
    return Target(
        ae_title=require_title(title),
        host=bracketed["host"] if bracketed else host,
        port=int(port),
    )


def bind_address(peers: Iterable[Peer]) -> str:
    """Return where to listen: on loopback, unless a peer comes from elsewhere."""
    local = all(
        any(_within(network, loopback) for loopback in LOOPBACK)
        for peer in peers
        for network in peer.networks
    )
    return "127.0.0.1" if local else "0.0.0.0"


def _within(network: Network, other: Network) -> bool:
    return network.version == other.version and network.subnet_of(other)  # type: ignore[arg-type]


def _networks(host: str) -> tuple[Network, ...]:
    try:
        return (ipaddress.ip_network(host),)
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as exc:
        raise InputError(
            f"'{host}' is no address, no network and no known name",
            hint="a network is written 10.1.2.0/24",
        ) from exc
    addresses = {_normal(ipaddress.ip_address(str(one[4][0]).partition("%")[0])) for one in found}
    return tuple(ipaddress.ip_network(address) for address in sorted(addresses, key=str))


def _normal(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 socket shows as ``::ffff:a.b.c.d``."""
    return getattr(address, "ipv4_mapped", None) or address
