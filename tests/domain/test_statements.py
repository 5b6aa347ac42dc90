"""Months that add up to the nano-dollar, whatever happened in them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.memory.billing import MemoryStatements
from adapters.memory.runtime import MemoryClock
from adapters.memory.storage import MemoryAccounts, MemoryLedger, MemoryStore
from kyma.errors import Refusal
from kyma.ledger import Kind, Resolution, fold
from kyma.money import Usd
from kyma.statements import MOVING, Line, LineFilter, Place, month, place_of
from tests.builders import NOON, a_key, a_session, an_account, new_id

MONTHS = ["2026-04", "2026-05", "2026-06", "2026-07", "2026-08"]

STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["deposit", "grant", "hold", "settle", "refund", "reverse", "reinstate", "sweep"]
        ),
        st.integers(1, 10**12),
        st.integers(0, 3),
        st.integers(0, 12 * 24 * 3600),
    ),
    max_size=40,
)


async def _history(steps: list[tuple[str, int, int, int]]) -> tuple[MemoryStore, str]:
    clock = MemoryClock()
    store = MemoryStore(now=clock.now)
    ledger, account = MemoryLedger(store), an_account()
    await MemoryAccounts(store).register(
        account, a_key(account), a_session(account), Usd(500_000_001)
    )
    end = month(MONTHS[-1])[1]
    for verb, amount, which, seconds in steps:
        if clock.now() + timedelta(seconds=seconds) < end:
            clock.move(seconds)
        entries = [*store.entries.values()]
        deposits = [entry.id for entry in entries if entry.kind is Kind.DEPOSIT] or [new_id()]
        reversals = [entry.id for entry in entries if entry.kind is Kind.REVERSAL] or [new_id()]
        holds = [*store.open_holds] or [new_id()]
        match verb:
            case "deposit":
                await ledger.deposit(new_id(), account.id, Usd(amount), "")
            case "grant":
                await ledger.grant(new_id(), account.id, Usd(amount), "")
            case "hold":
                await ledger.hold(new_id(), account.id, Usd(amount), which)
            case "settle":
                how = Resolution(holds[which % len(holds)], Kind.SETTLE, Usd(amount))
                await ledger.resolve(how)
            case "refund":
                await ledger.resolve(Resolution(holds[which % len(holds)], Kind.REFUND))
            case "reverse":
                await ledger.reverse(new_id(), deposits[which % len(deposits)], Usd(amount), "")
            case "reinstate":
                await ledger.reinstate(new_id(), reversals[which % len(reversals)], "")
            case _:
                await ledger.sweep()
    return store, account.id


@settings(max_examples=80, deadline=None)
@given(STEPS)
def test_every_month_ends_as_the_next_begins_and_both_are_the_fold_of_the_entries(
    steps: list[tuple[str, int, int, int]],
) -> None:
    async def check() -> None:
        store, account = await _history(steps)
        statements = MemoryStatements(store)
        months = [await statements.statement(account, *month(name)) for name in MONTHS]
        assert months[0].opening == 0
        for one, following in pairwise(months):
            assert one.closing == following.opening
            assert one.end == following.start
        for one in months:
            assert one.opening + sum(found.amount for found in one.sums.values()) == one.closing
            before = [e for id, e in store.entries.items() if store.booked_at[id] < one.end]
            assert one.closing == fold(before).posted
        assert months[-1].closing == store.balances[account].posted

    asyncio.run(check())


@settings(max_examples=60, deadline=None)
@given(STEPS, st.integers(1, 5))
def test_pages_of_any_size_are_all_lines_once_and_add_up_to_the_balance(
    steps: list[tuple[str, int, int, int]], size: int
) -> None:
    async def check() -> None:
        store, account = await _history(steps)
        statements = MemoryStatements(store)
        found: list[Line] = []
        after: Place | None = None
        while page := await statements.lines(account, LineFilter(), after, size):
            found += page
            after = place_of(page[-1].place.cursor())
        whole = await statements.lines(account, LineFilter(), None, 1000)
        assert found == list(whole)
        assert sum(line.amount for line in found) == store.balances[account].posted
        assert {line.kind for line in found} <= set(MOVING)

    asyncio.run(check())


@pytest.mark.parametrize(
    ("name", "start", "end"),
    [
        ("2026-05", datetime(2026, 5, 1, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC)),
        ("2026-12", datetime(2026, 12, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)),
        ("2028-02", datetime(2028, 2, 1, tzinfo=UTC), datetime(2028, 3, 1, tzinfo=UTC)),
    ],
)
def test_a_month_lasts_from_its_first_moment_to_that_of_the_next(
    name: str, start: datetime, end: datetime
) -> None:
    assert month(name) == (start, end)


@pytest.mark.parametrize(
    "name",
    ["", "2026", "2026-5", "2026-13", "2026-00", "1926-05", "2026-05-01", "２０２６-05", "x"],
)
def test_another_name_is_no_month(name: str) -> None:
    with pytest.raises(Refusal) as refused:
        month(name)
    assert refused.value.param == "month"


def test_a_cursor_names_its_place_and_nothing_else_is_a_cursor() -> None:
    place = Place(NOON, new_id())
    assert place_of(place.cursor()) == place
    for wrong in ("", "x", "!" * 32, "a" * 31, "_" * 32):
        with pytest.raises(Refusal, match="next_cursor"):
            place_of(wrong)
