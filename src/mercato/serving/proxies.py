"""Trusted proxies: whose word on the client's address is taken."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Self

from mercato.errors import MercatoError


@dataclass(frozen=True)
class Proxies:
    """Addresses and networks that stand between the clients and this server."""

    networks: tuple[IPv4Network | IPv6Network, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Of `--proxy`: addresses and networks (CIDR), parted by commas.

        Raises:
            MercatoError: one of them is neither.
        """
        try:
            return cls(tuple(ip_network(part.strip()) for part in text.split(",") if part.strip()))
        except ValueError as error:
            raise MercatoError(f"--proxy: {error}") from None

    def __contains__(self, address: str) -> bool:
        try:
            parsed = _unmapped(address)
        except ValueError:
            return False
        return any(parsed in network for network in self.networks)

    def client(self, peer: str, forwarded: Iterable[bytes]) -> str:
        """Whom a proxy at `peer` asks for, by the values of its `X-Forwarded-For` headers.

        Each proxy adds its own peer at the end, so that what stands before the last that is no proxy's may be made up.
        """
        client = peer
        for part in reversed(b",".join(forwarded).decode("latin-1").split(",")):
            try:
                client = str(_unmapped(_without_port(part.strip())))
            except ValueError:
                break
            if client not in self:
                break
        return client


class NetworkNames:
    """Names for networks that tell no address: keyed hashes, others each day (UTC)."""

    def __init__(self, key: bytes, clock: Callable[[], float] = time.time) -> None:
        self._key, self._clock = key, clock

    def of(self, address: str) -> str:
        """The network of an address: itself, of IPv6 the /48, which is what one subscriber may have."""
        day = int(self._clock() // 86_400)
        return blake2b(f"{day} {share(address, 48)}".encode(), key=self._key, digest_size=8).hexdigest()


def share(address: str, prefix: int = 64) -> str:
    """The address that a limit per address counts by: of IPv6 the /64, all of which one client may have."""
    if ":" not in address:
        return address
    try:
        parsed = _unmapped(address)
    except ValueError:
        return address
    return str(IPv6Network((parsed, prefix), strict=False)) if isinstance(parsed, IPv6Address) else str(parsed)


def _unmapped(address: str) -> IPv4Address | IPv6Address:
    """The address; of an IPv4 one that came to an IPv6 socket, that one."""
    parsed = ip_address(address)
    return (parsed.ipv4_mapped or parsed) if isinstance(parsed, IPv6Address) else parsed


def _without_port(part: str) -> str:
    if part.startswith("["):
        return part[1:].partition("]")[0]
    return part.partition(":")[0] if part.count(":") == 1 else part
