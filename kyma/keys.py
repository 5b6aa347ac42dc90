"""What a key may do: scopes, models, networks, a monthly cap, an end. Pure policy, no secrets.

A session may do everything. What a key may do is enforced in `kyma.flows.access`, except for
the cap, which is counted where the money is (`kyma.ledger.KeyMonth`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from kyma.errors import Code, Refusal
from kyma.money import Usd

Network = IPv4Network | IPv6Network

MAX_KEYS = 100
"""Live keys of one account."""

MAX_NAME_LENGTH = 100
MAX_MODELS = 100
MAX_NETWORKS = 50
MAX_OVERLAP_HOURS = 168
MAX_CAP = Usd(10**15)
"""A million dollars a month: more is no cap."""


class Scope(StrEnum):
    """What a route needs; each route declares one."""

    INFERENCE = "inference"
    """Ask a model, quote a request."""

    ACCOUNT_READ = "account.read"
    """Read balance, limits, keys, sessions, receipts, statements."""

    KEYS_MANAGE = "keys.manage"
    """Create, change, rotate and revoke keys; end sessions."""

    BILLING = "billing"
    """Buy credits, handle cards, set auto top-up."""


EVERY_SCOPE = frozenset(Scope)

DEFAULT_SCOPES = frozenset({Scope.INFERENCE, Scope.ACCOUNT_READ})
"""Of a key that is created without saying. The first key of an account has every scope."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the owner of a key allows it. No models or no networks listed: any.

    `monthly_cap` counts what is spent with the key from the first of the month, UTC.
    """

    scopes: frozenset[Scope] = EVERY_SCOPE
    models: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()
    monthly_cap: Usd | None = None
    expires_at: datetime | None = None

    @property
    def is_restricted(self) -> bool:
        """Whether it limits more than scopes: then its key cannot hand out authority."""
        return bool(self.models or self.networks or self.monthly_cap is not None or self.expires_at)

    def admits(self, address: str | None) -> bool:
        """Whether a request from this address is within the networks. Unknown is outside."""
        return not self.networks or is_inside(address, self.networks)


UNRESTRICTED = Policy()


def is_inside(address: str | None, networks: Iterable[Network]) -> bool:
    """Whether an address is in one of them; an IPv4 address mapped into IPv6 counts as itself."""
    try:
        found = ip_address((address or "").partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return any(found in network for network in networks)


def network_from(text: str) -> Network:
    """A network in CIDR form, or a single address; refuses host bits, which would be a typo."""
    try:
        return ip_network(text.strip())
    except ValueError as error:
        raise Refusal(
            Code.INVALID_VALUE,
            f"{text[:60]!r} is not an IP address or a CIDR network such as 203.0.113.0/24 or "
            f"2001:db8::/32: {error}.",
            param="ip_list",
        ) from None


def check_hands_out(own: Policy, *wanted: Policy) -> None:
    """Whether somebody with this policy may give these to a key; else a refusal.

    Otherwise a key that leaked could make itself one without its limits.
    """
    if own.is_restricted:
        raise Refusal(
            Code.FORBIDDEN,
            "A key with a cap, an expiry, or lists of models or networks cannot create, change, "
            "rotate or revoke other keys. Use a session or a key without them.",
        )
    beyond = sorted({scope for policy in wanted for scope in policy.scopes - own.scopes})
    if beyond:
        raise Refusal(
            Code.FORBIDDEN,
            f"This key does not have {', '.join(beyond)} itself, so it cannot give it to a key, "
            "nor change or revoke a key that has it.",
            param="scopes",
        )


def check_ends_sessions(own: Policy) -> None:
    """Whether somebody with this policy may sign people out: a session may do everything."""
    if own.is_restricted or own.scopes != EVERY_SCOPE:
        raise Refusal(
            Code.FORBIDDEN,
            "Only a session, or a key with every scope and no limits, ends sessions: they may do "
            "more than this key.",
        )
