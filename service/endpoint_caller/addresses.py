"""Which addresses endpoint graders may be reached at: public ones, and networks named by setting.

A definition's URL comes from whoever may run graders, so that without this rule anybody with a key
could read what the service's own network offers: neighbours, loopback, cloud metadata. The rule is
asked about the very address a socket is about to connect to, after any name was resolved; what a
name resolves to later changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are the IPv4 address meant
# Not public, though `ipaddress` of some Python versions takes them for it.
_NOT_PUBLIC = tuple(
    map(
        ip_network,
        (
            "100.64.0.0/10",  # shared by providers (RFC 6598)
            "192.0.0.0/24",  # protocol assignments (RFC 6890)
            "64:ff9b:1::/48",  # NAT64 of one's own (RFC 8215)
            "2001::/23",  # Teredo and other protocol assignments
            "fec0::/10",  # site-local, deprecated
        ),
    )
)


class AddressRefusedError(Exception):
    """An address that endpoint graders may not be reached at.

    Attributes:
        address: As it would have been connected to.
    """

    def __init__(self, address: str) -> None:
        """Name the address."""
        self.address = address
        super().__init__(f"{address} is not a public address")


class AddressRule:
    """Says which addresses may be connected to."""

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        """Allow public addresses and those in the networks ``allowed``.

        Raises:
            ValueError: One of ``allowed`` is no network such as ``10.1.0.0/16``.
        """
        self._allowed = tuple(ip_network(network) for network in allowed)

    def check(self, address: str) -> None:
        """Return if ``address`` may be connected to.

        Raises:
            AddressRefusedError: It may not, or is no address in its canonical form.
        """
        try:
            meant = _meant(ip_address(address))
        except ValueError:
            raise AddressRefusedError(address) from None
        if not (_within(meant, self._allowed) or _is_public(meant)):
            raise AddressRefusedError(address)


def _meant(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Return the IPv4 address that an IPv6 address stands for, if it does."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or address


def _within(
    address: IPv4Address | IPv6Address, networks: Iterable[IPv4Network | IPv6Network]
) -> bool:
    return any(address.version == network.version and address in network for network in networks)


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    special = address.is_multicast or address.is_reserved or address.is_unspecified
    return address.is_global and not special and not _within(address, _NOT_PUBLIC)
