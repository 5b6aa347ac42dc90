"""How often somebody may try to get in, or begin to pay: per client address and person, always.

No setting touches these limits. The rule is a sliding window that counts attempts; those that
succeed at signing in are given back. Pure: the time comes in as an argument.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv6Address, ip_address, ip_network

MAX_TRACKED = 50_000
"""Windows kept in memory at most; the one used longest ago is forgotten first."""


class Guarded(StrEnum):
    """What is throttled."""

    LOGIN = "login"
    REGISTER = "register"
    CODE = "code"
    """Typing a code that somebody else was shown: a device's, a link's."""

    MAIL = "mail"
    """Asking for a letter: a reset, a verification."""

    PURCHASE = "purchase"
    """Opening a page to pay or to leave a card on, and charging a saved one. Whoever has a list of
    stolen cards tries them on a shop, and each try costs the shop a call and its good name."""

    ASKING = "asking"
    """Looking at what the payment processor has: it counts our questions, and buyers' go first."""


@dataclass(frozen=True, slots=True)
class Limit:
    """Attempts within a window, per subject (an account or address of mail) and per client."""

    per_subject: int
    per_address: int
    window_s: int


LIMITS: Mapping[Guarded, Limit] = {
    Guarded.LOGIN: Limit(10, 50, 900),
    Guarded.REGISTER: Limit(10, 5, 3600),
    Guarded.CODE: Limit(10, 30, 900),
    Guarded.MAIL: Limit(3, 20, 3600),
    Guarded.PURCHASE: Limit(10, 50, 900),
    Guarded.ASKING: Limit(60, 300, 60),
}


LOOPBACK = 100
"""In development this machine may try so many times as often as another client."""


@dataclass(frozen=True, slots=True)
class Window:
    """One counter: its name, how many attempts it allows, within how long."""

    name: str
    allowed: int
    window_s: int


def windows_of(
    kind: Guarded, address: str, subject: str, *, trust_loopback: bool
) -> tuple[Window, ...]:
    """The counters of an attempt. An empty subject, or address, has none.

    `trust_loopback` makes the window of this very machine, as one client, `LOOPBACK` times as
    wide: in development alone, where tests and a developer's own tools are the clients. Never is
    it left out, for a proxy that nobody named may stand here, and bring everybody.
    """
    limit = LIMITS[kind]
    found = []
    if address:
        ours = trust_loopback and is_loopback(address)
        name = f"{kind}:a:{'loopback' if ours else address_group(address)}"
        allowed = limit.per_address * (LOOPBACK if ours else 1)
        found.append(Window(name, allowed, limit.window_s))
    if subject:
        name = f"{kind}:s:{subject.strip().lower()}"
        found.append(Window(name, limit.per_subject, limit.window_s))
    return tuple(found)


def is_loopback(address: str) -> bool:
    """Whether a client is on this machine."""
    try:
        return ip_address(address_group(address).partition("/")[0]).is_loopback
    except ValueError:
        return False


def address_group(address: str) -> str:
    """What one client can easily have: an IPv4 address, or a /64 of IPv6."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        if not found.is_loopback:
            return str(ip_network((found, 64), strict=False))
    return str(found)


class Counts:
    """The counters of one process: the rule itself, and what is left when Redis is away."""

    def __init__(self) -> None:
        self._attempts: OrderedDict[str, deque[float]] = OrderedDict()

    def take(self, windows: tuple[Window, ...], now: float) -> float:
        """Count an attempt in all of them, or in none: how long to wait, 0.0 if it counted."""
        wait = max((self._wait(window, now) for window in windows), default=0.0)
        if wait > 0:
            return wait
        for window in windows:
            self._attempts.setdefault(window.name, deque()).append(now)
            self._attempts.move_to_end(window.name)
        while len(self._attempts) > MAX_TRACKED:
            self._attempts.popitem(last=False)
        return 0.0

    def _wait(self, window: Window, now: float) -> float:
        attempts = self._attempts.get(window.name)
        if attempts is None:
            return 0.0
        while attempts and attempts[0] <= now - window.window_s:
            attempts.popleft()
        if len(attempts) < window.allowed:
            return 0.0
        return attempts[-window.allowed] + window.window_s - now

    def give_back(self, windows: tuple[Window, ...]) -> None:
        """Forget the latest attempt of each: it was none."""
        for window in windows:
            attempts = self._attempts.get(window.name)
            if attempts:
                attempts.pop()
