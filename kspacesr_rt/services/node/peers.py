"""Who may send to the node, and where it sends to: ``AE@host`` and ``AE@host:port``."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from kspacesr_rt.errors import InputError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

LOOPBACK: Final = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))
_NO_SENDER: Final = tuple(
    ipaddress.ip_network(one)
    for one in ("0.0.0.0/32", "224.0.0.0/4", "255.255.255.255/32", "::/128", "ff00::/8")
)
"""Unspecified, multicast and broadcast: addresses that no connection comes from."""
_TITLE: Final = re.compile(r"[ -\[\]-~]{1,16}")
"""ASCII without control characters and backslash, at most 16 (PS3.5 6.2, AE)."""
_BRACKETED: Final = re.compile(r"\[(?P<host>[^\]]+)\](?P<prefix>/\d+)?")
_WILDCARDS: Final = frozenset("*?[]")
"""Legal in an AE title, and meant as nothing but a pattern."""
_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")
_HOST: Final = re.compile(r"[^\s/@,;\[\]\x00-\x1f\x7f]{1,253}")
"""What may be a name or an address; the rest is a typing error that no resolver would mend."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """A sender that is accepted."""

    ae_title: str | None
    """Its title; None accepts any."""
    networks: tuple[Network, ...]
    """Where it may come from."""

    def __str__(self) -> str:
        return f"{self.ae_title or 'anybody'}@{','.join(map(str, self.networks))}"

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
    ae_title = require_title(title)
    if _WILDCARDS & set(ae_title):
        raise InputError(
            f"--accept {text}: an AE title is no pattern, so nobody would match '{ae_title}'",
            hint="name every sender: --accept MRI1@10.1.2.0/24 --accept MRI2@10.1.2.0/24",
        )
    networks = _networks(without_brackets(host))
    for network in networks:
        if any(_within(network, one) for one in _NO_SENDER):
            raise InputError(
                f"--accept {text}: nobody sends from {network}",
                hint="every address is written 0.0.0.0/0 and ::/0",
            )
    return Peer(ae_title=ae_title, networks=networks)


def parse_target(text: str) -> Target:
    """Return the node that ``AE@host:port`` names.

    Raises
    ------
    InputError
        If the text is not of that form.
    """
    title, _, place = text.rpartition("@")
    host, _, port = place.rpartition(":")
    if not title or not host or not port.isascii() or not port.isdigit():
        raise InputError(
            f"--forward is AE@host:port, not '{text}'", hint="for example PACS@10.1.2.3:104"
        )
    bare = without_brackets(host)
    if not _HOST.fullmatch(bare):
        raise InputError(f"'{host}' is no name and no address", hint="PACS@10.1.2.3:104")
    if bare == host and ":" in host:
        raise InputError(
            f"--forward {text}: where does the address end?", hint="for example PACS@[fd00::1]:104"
        )
    if not 0 < int(port) < 1 << 16:
        raise InputError(f"there is no TCP port {port}")
    return Target(ae_title=require_title(title), host=bare, port=int(port))


def without_brackets(host: str) -> str:
    """Return an IPv6 address or network that is written ``[::1]`` without its brackets."""
    bracketed = _BRACKETED.fullmatch(host)
    return bracketed["host"] + (bracketed["prefix"] or "") if bracketed else host


def bind_address(peers: Iterable[Peer]) -> str:
    """Return where to listen so that every peer can come: on loopback, if all are on this machine.

    Raises
    ------
    InputError
        If they are, and no single address hears all of them.
    """
    peers = tuple(peers)
    networks = [network for peer in peers for network in peer.networks]
    if all(_is_loopback(network) for network in networks):
        for address in ("127.0.0.1", "::1"):
            if not any(unreachable(peers, address)):
                return address
        raise InputError(
            "some senders come from 127.0.0.1 and some from ::1, and no one address hears both",
            hint="--bind :: listens on every address; who is not accepted is turned away",
        )
    only_ipv6 = any(unreachable(peers, "0.0.0.0"))
    named_too = any(one.version == 6 and not _is_loopback(one) for one in networks)
    return "::" if only_ipv6 or (named_too and socket.has_dualstack_ipv6()) else "0.0.0.0"


def unreachable(peers: Iterable[Peer], address: str) -> Iterator[Peer]:
    """Yield the peers that could never connect to an address on which a node listens."""
    bound = _normal(ipaddress.ip_address(address.partition("%")[0]))
    versions = {4, 6} if bound.version == 6 and bound.is_unspecified else {bound.version}
    for peer in peers:
        heard = [one for one in peer.networks if one.version in versions]
        if bound.is_loopback:
            heard = [one for one in heard if any(_overlap(one, local) for local in LOOPBACK)]
        elif not bound.is_unspecified:  # from itself, this machine comes with that very address
            heard = [one for one in heard if not _is_loopback(one)]
        if not heard:
            yield peer


def _is_loopback(network: Network) -> bool:
    return any(_within(network, one) for one in LOOPBACK)


def _within(network: Network, other: Network) -> bool:
    """Return whether all addresses of a network are another's; none of IPv4 is one of IPv6."""
    if isinstance(network, ipaddress.IPv4Network):
        return isinstance(other, ipaddress.IPv4Network) and network.subnet_of(other)
    return isinstance(other, ipaddress.IPv6Network) and network.subnet_of(other)


def _overlap(network: Network, other: Network) -> bool:
    return network.version == other.version and network.overlaps(other)


def _networks(host: str) -> tuple[Network, ...]:
    try:
        return (_unmapped(ipaddress.ip_network(host)),)
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


def _unmapped(network: Network) -> Network:
    """Return the IPv4 network that ``::ffff:a.b.c.d/n`` stands for: as that, it is seen."""
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        first = network.network_address.ipv4_mapped
        return ipaddress.ip_network((int(first or 0), network.prefixlen - _MAPPED.prefixlen))
    return network


def _normal(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 socket shows as ``::ffff:a.b.c.d``."""
    return getattr(address, "ipv4_mapped", None) or address
