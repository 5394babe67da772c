"""Which host names a page answers to, so that no foreign web site reaches it through a browser."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence

ANY_NAME = "*"

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{1,5})?")


def is_loopback(host: str) -> bool:
    """Whether an address to listen at can only be reached from this machine."""
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


class AllowedHosts:
    """The names in a request's ``Host`` header, and the web sites in its ``Origin`` header.

    A page at a loopback address answers to ``localhost`` and loopback addresses; one at any other
    address to that, to all numeric addresses and to this machine's name. A browser that a web site
    has led here under the site's own name (DNS rebinding) names that one.

    Args:
        host: the address to listen at.
        names: further names, as a proxy or the DNS has them; ``*`` stands for all.
    """

    def __init__(self, host: str, names: Sequence[str] = ()) -> None:
        self._given = {name.lower() for name in names}
        self._own = {"localhost", host.lower().strip("[]")}
        self._only_loopback = is_loopback(host)
        if not self._only_loopback:
            self._own.add(socket.gethostname().lower())

    def answers_to(self, host: str) -> bool:
        """Whether a ``Host`` header, with or without a port, names this page."""
        match = _HOST.fullmatch(host.lower())
        if match is None:
            return False
        name = match[1].strip("[]")
        if name in self._own | self._given or ANY_NAME in self._given:
            return True
        address = _address(name)
        return address is not None and (address.is_loopback or not self._only_loopback)

    def is_own_site(self, origin: str, host: str) -> bool:
        """Whether ``origin`` is the page itself: the site of the ``Host`` header, or of a name
        that was given, because a proxy may have put another one into that header."""
        scheme, _, site = origin.lower().partition("://")
        match = _HOST.fullmatch(site)
        if scheme not in ("http", "https") or match is None:
            return False
        return site == host.lower() or match[1].strip("[]") in self._given


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return None
