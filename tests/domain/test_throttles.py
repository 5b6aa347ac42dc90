"""How often somebody may try: the rule of the windows, and what counts as one client."""

from __future__ import annotations

import pytest

from kyma.throttles import (
    LIMITS,
    MAX_TRACKED,
    Counts,
    Guarded,
    Window,
    address_group,
    windows_of,
)

ANA = Window("ana", 3, 60)


def windows(
    kind: Guarded = Guarded.LOGIN,
    address: str = "203.0.113.9",
    subject: str = "ana@example.com",
    *,
    trust_loopback: bool = False,
) -> tuple[Window, ...]:
    return windows_of(kind, address, subject, trust_loopback=trust_loopback)


def test_so_many_attempts_are_allowed_and_the_next_one_waits_for_the_first_to_leave() -> None:
    counts = Counts()
    assert [counts.take((ANA,), at) for at in (0.0, 10.0, 20.0)] == [0.0, 0.0, 0.0]
    assert counts.take((ANA,), 30.0) == 30.0
    assert counts.take((ANA,), 60.0) == 0.0
    assert counts.take((ANA,), 60.0) == 10.0


def test_what_is_refused_does_not_count() -> None:
    counts = Counts()
    for at in range(3):
        counts.take((ANA,), float(at))
    waits = [counts.take((ANA,), 3.0) for _ in range(50)]
    assert set(waits) == {57.0}
    assert counts.take((ANA,), 60.0) == 0.0


def test_an_attempt_counts_in_every_window_or_in_none() -> None:
    counts, small, large = Counts(), Window("small", 1, 60), Window("large", 5, 60)
    assert counts.take((small, large), 0.0) == 0.0
    assert counts.take((small, large), 1.0) == 59.0
    assert [counts.take((large,), 2.0) for _ in range(5)] == [0.0] * 4 + [58.0]


def test_what_is_given_back_was_none() -> None:
    counts = Counts()
    for at in range(100):
        assert counts.take((ANA,), float(at) / 10) == 0.0
        counts.give_back((ANA,))
    counts.give_back((ANA,))
    assert counts.take((ANA,), 10.0) == 0.0


def test_no_more_is_remembered_than_fits() -> None:
    counts = Counts()
    for name in range(MAX_TRACKED + 1):
        counts.take((Window(str(name), 1, 60),), 0.0)
    assert counts.take((Window("0", 1, 60),), 0.0) == 0.0
    assert counts.take((Window(str(MAX_TRACKED), 1, 60),), 0.0) == 60.0


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::9", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::1"),
        ("unix", "unix"),
    ],
)
def test_a_client_is_an_ipv4_address_or_a_network_of_ipv6(address: str, group: str) -> None:
    assert address_group(address) == group


def test_a_subject_has_one_spelling_and_each_kind_counts_for_itself() -> None:
    assert windows(subject=" Ana@Example.com ") == windows()
    names = {window.name for kind in Guarded for window in windows(kind)}
    assert len(names) == 2 * len(Guarded)


@pytest.mark.parametrize("kind", Guarded)
def test_every_kind_limits_the_client_and_the_subject(kind: Guarded) -> None:
    limit = LIMITS[kind]
    of_client, of_subject = windows(kind)
    assert (of_client.allowed, of_subject.allowed) == (limit.per_address, limit.per_subject)
    # Only where nothing is guessed and nothing begun does a minute do.
    most, clients, least_s = (60, 300, 60) if kind is Guarded.ASKING else (10, 50, 900)
    assert of_client.window_s == of_subject.window_s == limit.window_s >= least_s
    assert 0 < limit.per_subject <= most
    assert 0 < limit.per_address <= clients


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
def test_where_this_machine_is_trusted_it_may_try_more_often_but_not_for_ever(
    address: str,
) -> None:
    """A proxy that nobody named brings everybody from here."""
    ours, subject = windows(address=address, trust_loopback=True)
    assert (ours.allowed, subject.allowed) == (5000, 10)
    assert ours == windows(address="127.0.0.1", trust_loopback=True)[0]
    assert [window.allowed for window in windows(address=address)] == [50, 10]
    assert windows(trust_loopback=True) == windows()


def test_who_is_unknown_has_no_window() -> None:
    assert windows(address="", subject="") == ()
