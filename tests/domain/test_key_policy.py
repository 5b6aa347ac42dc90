"""What a key may do, and what it may hand out."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from kyma.errors import Code, Refusal
from kyma.keys import (
    DEFAULT_SCOPES,
    EVERY_SCOPE,
    UNRESTRICTED,
    Policy,
    Scope,
    check_hands_out,
    is_inside,
    network_from,
)
from kyma.money import ZERO, usd
from tests.builders import NOON

LIMITS = [
    {"models": frozenset({"qwen-3-32b"})},
    {"networks": (network_from("203.0.113.0/24"),)},
    {"monthly_cap": usd("5")},
    {"monthly_cap": ZERO},
    {"expires_at": NOON + timedelta(days=1)},
]


@pytest.mark.parametrize(
    ("address", "network", "inside"),
    [
        ("203.0.113.9", "203.0.113.0/24", True),
        ("203.0.114.9", "203.0.113.0/24", False),
        ("203.0.113.9", "203.0.113.9", True),
        ("::ffff:203.0.113.9", "203.0.113.0/24", True),
        ("2001:db8::1", "2001:db8::/32", True),
        ("2001:db9::1", "2001:db8::/32", False),
        ("fe80::1%eth0", "fe80::/10", True),
        ("203.0.113.9", "2001:db8::/32", False),
        ("unix", "0.0.0.0/0", False),
        ("", "0.0.0.0/0", False),
        (None, "0.0.0.0/0", False),
    ],
)
def test_an_address_is_inside_a_network_or_not(
    address: str | None, network: str, inside: bool
) -> None:
    assert is_inside(address, [network_from(network)]) is inside
    assert replace(UNRESTRICTED, networks=(network_from(network),)).admits(address) is inside


@pytest.mark.parametrize("address", ["203.0.113.9", "unix", "", None])
def test_a_key_without_networks_is_used_from_anywhere(address: str | None) -> None:
    assert UNRESTRICTED.admits(address)


@pytest.mark.parametrize("text", ["", "here", "203.0.113.9/24", "300.1.1.1", "::1/129", "1.2.3.4/"])
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(Refusal) as caught:
        network_from(text)
    assert (caught.value.code, caught.value.param) == (Code.INVALID_VALUE, "ip_list")


def test_who_has_everything_may_give_anything() -> None:
    check_hands_out(UNRESTRICTED, UNRESTRICTED, *(replace(UNRESTRICTED, **one) for one in LIMITS))


@pytest.mark.parametrize("limit", LIMITS)
def test_who_is_limited_gives_nothing_away(limit: dict[str, object]) -> None:
    own = replace(UNRESTRICTED, **limit)
    assert own.is_restricted
    with pytest.raises(Refusal) as caught:
        check_hands_out(own, own)
    assert caught.value.code is Code.FORBIDDEN


def test_nobody_gives_a_scope_that_they_lack() -> None:
    own = Policy(DEFAULT_SCOPES | {Scope.KEYS_MANAGE})
    check_hands_out(own, Policy(DEFAULT_SCOPES))
    with pytest.raises(Refusal, match="does not have billing itself"):
        check_hands_out(own, Policy(DEFAULT_SCOPES), Policy(EVERY_SCOPE))


def test_a_key_that_is_made_without_saying_buys_nothing_and_manages_nothing() -> None:
    assert {Scope.KEYS_MANAGE, Scope.BILLING} == EVERY_SCOPE - DEFAULT_SCOPES
