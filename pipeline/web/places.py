"""Who may have how much of the server at once: places, of which one address has some at most.

Where all are taken, one that is held to no end (a connection without a request, an upload that trickles in) makes way.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(eq=False)
class Place:
    """`may_go`: whether its holder can make way now; `go` makes it."""

    address: str
    may_go: Callable[[], bool]
    go: Callable[[], None]


def _never() -> bool:
    return False


def _nothing() -> None:
    return None


class Places:
    """`most` at once, `each` of one address. For one event loop."""

    def __init__(self, most: int, each: int) -> None:
        self._most, self._each = most, each
        self._held: dict[Place, None] = {}  # the oldest first

    def __len__(self) -> int:
        return len(self._held)

    def take(
        self,
        address: str,
        *,
        may_go: Callable[[], bool] = _never,
        go: Callable[[], None] = _nothing,
        shared: bool = False,
    ) -> Place | None:
        """A place, which `leave` gives back; None if all that the address may have are taken by what stays.

        The oldest that can make way does, of the address that has most places. `shared`: the address stands for many
        clients, as a proxy's, and may have all places.
        """
        held = Counter(place.address for place in self._held)
        own_full = not shared and held[address] >= self._each
        if own_full or len(self._held) >= self._most:
            among = [p for p in self._held if (p.address == address or not own_full) and p.may_go()]
            if not among:
                return None
            leaving = max(among, key=lambda p: held[p.address])  # the first, and so the oldest, of equals
            self.leave(leaving)
            leaving.go()
        place = Place(address, may_go, go)
        self._held[place] = None
        return place

    def leave(self, place: Place) -> None:
        self._held.pop(place, None)


def network_of(address: str) -> str:
    """What is taken for one client: an IPv4 address, or the 64 bits of an IPv6 address that one customer has."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
