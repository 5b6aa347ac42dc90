from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest

from adapters.memory.keys import MemoryAttempts
from adapters.memory.runtime import MemoryChance, MemoryClock, MemoryInvalidations, MemoryPasswords
from adapters.memory.storage import (
    MemoryAccounts,
    MemoryLedger,
    MemoryOperators,
    MemoryOverrides,
    MemoryStore,
)
from kyma.accounts import Account
from kyma.errors import Code, Refusal
from kyma.flows.overrides import TierOverrides
from kyma.flows.signin import NewOperators, OperatorSignIn
from kyma.flows.throttle import Throttle
from kyma.money import ZERO, usd
from kyma.throttles import LIMITS, Guarded
from tests.builders import a_key, a_session, an_account, new_id


class Desk:
    """An operator's desk: the flow, and what it stands on."""

    def __init__(self) -> None:
        self.clock = MemoryClock()
        self.store = MemoryStore(now=self.clock.now)
        self.accounts = MemoryAccounts(self.store)
        self.ledger = MemoryLedger(self.store)
        self.invalidations = MemoryInvalidations()
        self.overrides = TierOverrides(
            self.accounts,
            MemoryOverrides(self.store),
            self.clock,
            MemoryChance(),
            self.invalidations,
        )

    async def customer(self, email: str = "ada@example.com", deposits: str = "5") -> Account:
        account = an_account(email)
        await self.accounts.register(account, a_key(account), a_session(account), ZERO)
        await self.ledger.deposit(new_id(), account.id, usd(deposits), "card")
        return account

    def tomorrow(self) -> datetime:
        return self.clock.now() + timedelta(days=1)


@pytest.fixture
def desk() -> Desk:
    return Desk()


async def test_a_customer_without_override_has_the_tier_of_their_deposits(desk: Desk) -> None:
    account = await desk.customer(deposits="50")
    seen = await desk.overrides.look(account.id)
    assert (seen.account, seen.tier.level, seen.earned.level) == (account, 2, 2)
    assert seen.why == "lifetime deposits of $50.00"
    assert seen.history == ()
    assert seen.in_force(desk.clock.now()) is None


async def test_a_grant_decides_the_tier_until_it_ends(desk: Desk) -> None:
    account = await desk.customer()
    await desk.overrides.grant(account.id, 4, "load test", desk.tomorrow(), "olga")
    during = await desk.overrides.look(account.id)
    assert (during.tier.level, during.earned.level) == (4, 1)
    assert "olga" in during.why
    assert "load test" in during.why

    desk.clock.move(86_400)
    after = await desk.overrides.look(account.id)
    assert after.tier.level == 1
    assert after.why.startswith("lifetime deposits")
    assert len(after.history) == 1


async def test_a_grant_may_lower_a_tier_and_have_no_end(desk: Desk) -> None:
    account = await desk.customer(deposits="1000")
    await desk.overrides.grant(account.id, 0, "abuse report 17", None, "olga")
    desk.clock.move(10 * 365 * 86_400)
    assert (await desk.overrides.look(account.id)).tier.level == 0


async def test_a_grant_records_who_why_when_and_until(desk: Desk) -> None:
    account = await desk.customer()
    until = desk.tomorrow()
    made = await desk.overrides.grant(account.id, 3, "  pilot  ", until, " olga ")
    assert desk.store.overrides == [made]
    assert (made.account_id, made.level, made.operator) == (account.id, 3, "olga")
    assert (made.reason, made.granted_at, made.until) == ("pilot", desk.clock.now(), until)


async def test_every_process_is_told_to_forget_after_each_decision(desk: Desk) -> None:
    account = await desk.customer()
    await desk.overrides.grant(account.id, 3, "pilot", None, "olga")
    await desk.overrides.revoke(account.id, "pilot over", "olga")
    assert desk.invalidations.forgotten == [account.id, account.id]


async def test_the_row_is_stored_before_anyone_is_told(desk: Desk) -> None:
    rows_when_told: list[int] = []

    class Telling:
        async def forget(self, account_id: str) -> None:
            rows_when_told.append(len(desk.store.overrides))

    flow = TierOverrides(
        desk.accounts, MemoryOverrides(desk.store), desk.clock, MemoryChance(), Telling()
    )
    account = await desk.customer()
    await flow.grant(account.id, 3, "pilot", None, "olga")
    assert rows_when_told == [1]


async def test_a_later_grant_replaces_the_one_before(desk: Desk) -> None:
    account = await desk.customer()
    await desk.overrides.grant(account.id, 4, "pilot", None, "olga")
    await desk.overrides.grant(account.id, 2, "pilot scaled down", desk.tomorrow(), "nils")
    seen = await desk.overrides.look(account.id)
    assert seen.tier.level == 2
    assert [each.operator for each in seen.history] == ["nils", "olga"]
    desk.clock.move(2 * 86_400)
    assert (await desk.overrides.look(account.id)).tier.level == 1


async def test_revoking_lets_deposits_decide_and_keeps_the_history(desk: Desk) -> None:
    account = await desk.customer()
    await desk.overrides.grant(account.id, 4, "pilot", None, "olga")
    revoked = await desk.overrides.revoke(account.id, "pilot over", "nils")
    seen = await desk.overrides.look(account.id)
    assert revoked.level is None
    assert seen.tier.level == 1
    assert [each.level for each in seen.history] == [None, 4]


@pytest.mark.parametrize("state", ["never granted", "ended", "revoked already"])
async def test_revoking_nothing_is_refused(desk: Desk, state: str) -> None:
    account = await desk.customer()
    if state != "never granted":
        await desk.overrides.grant(account.id, 4, "pilot", desk.tomorrow(), "olga")
    if state == "ended":
        desk.clock.move(86_400)
    if state == "revoked already":
        await desk.overrides.revoke(account.id, "pilot over", "olga")
    before = list(desk.store.overrides)
    with pytest.raises(Refusal, match="no override in force"):
        await desk.overrides.revoke(account.id, "again", "olga")
    assert desk.store.overrides == before


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"level": 5}, "level"),
        ({"level": -1}, "level"),
        ({"reason": "  ab "}, "reason"),
        ({"reason": "x" * 501}, "reason"),
        ({"until": MemoryClock().now()}, "until"),
        ({"until": MemoryClock().now() - timedelta(seconds=1)}, "until"),
        ({"until": datetime(2030, 1, 1)}, "until"),  # noqa: DTZ001 - the missing zone is the point
        ({"operator": " "}, "operator"),
        ({"account_id": "0" * 32}, "account_id"),
        ({"account_id": "ada@example.com"}, "account_id"),
    ],
)
async def test_a_bad_grant_is_refused_and_leaves_no_trace(
    desk: Desk, change: dict[str, object], param: str
) -> None:
    account = await desk.customer()
    good: dict[str, object] = {
        "account_id": account.id,
        "level": 3,
        "reason": "pilot",
        "until": None,
        "operator": "olga",
    }
    with pytest.raises(Refusal) as refused:
        await desk.overrides.grant(**{**good, **change})
    assert refused.value.param == param
    assert refused.value.message.endswith(".")
    assert desk.store.overrides == []
    assert desk.invalidations.forgotten == []


async def test_an_unknown_account_cannot_be_looked_at(desk: Desk) -> None:
    with pytest.raises(Refusal) as refused:
        await desk.overrides.look("f" * 32)
    assert refused.value.code is Code.NOT_FOUND


async def test_an_id_with_dashes_is_the_same_account(desk: Desk) -> None:
    account = await desk.customer()
    id = account.id
    dashed = f"{id[:8]}-{id[8:12]}-{id[12:16]}-{id[16:20]}-{id[20:]}".upper()
    assert (await desk.overrides.look(dashed)).account == account


async def test_customers_are_found_by_part_of_their_address_or_by_id(desk: Desk) -> None:
    ada = await desk.customer("ada@example.com")
    await desk.customer("grace@example.com")
    assert await desk.overrides.find(" ADA ") == [ada]
    assert await desk.overrides.find(ada.id) == [ada]
    assert len(await desk.overrides.find("example")) == 2
    assert list(await desk.overrides.find("  ")) == []


@dataclass
class Door:
    """Where operators sign in, and how they came to be."""

    clock: MemoryClock
    operators: MemoryOperators
    throttle: Throttle

    def sign_in(self) -> OperatorSignIn:
        return OperatorSignIn(self.operators, MemoryPasswords(), self.throttle)

    def new(self) -> NewOperators:
        return NewOperators(self.operators, MemoryPasswords(), self.clock)


@pytest.fixture
def door() -> Door:
    clock = MemoryClock()
    attempts = MemoryAttempts(clock.monotonic)
    return Door(clock, MemoryOperators(MemoryStore()), Throttle(attempts))


async def test_guesses_at_an_operator_are_counted_and_the_owner_is_not(door: Door) -> None:
    limit, signin, other_tab = LIMITS[Guarded.LOGIN], door.sign_in(), door.sign_in()
    olga = await door.new().create("olga", "correct horse")
    for _ in range(limit.per_subject + 5):
        assert await signin.sign_in("olga", "correct horse") == olga
    for _ in range(limit.per_subject):
        assert await signin.sign_in("olga", "wrong horse") is None
    with pytest.raises(Refusal) as refused:
        await other_tab.sign_in(" olga ", "correct horse")
    assert refused.value.code is Code.TOO_MANY_ATTEMPTS
    assert await signin.sign_in("nils", "wrong horse") is None
    door.clock.move(limit.window_s)
    assert await signin.sign_in("olga", "correct horse") == olga


async def test_only_the_right_password_signs_an_operator_in(door: Door) -> None:
    signin, olga = door.sign_in(), await door.new().create(" olga ", "correct horse")
    assert await signin.sign_in("olga", "correct horse") == olga
    assert await signin.sign_in("olga", "wrong horse") is None
    assert await signin.sign_in("nobody", "correct horse") is None
    assert await signin.sign_in("olga", "") is None
    assert await signin.sign_in("olga", "x" * 5000) is None


@pytest.mark.parametrize(
    ("name", "password", "param"),
    [
        ("", "long enough", "name"),
        ("n" * 65, "long enough", "name"),
        ("two\nlines", "long enough", "name"),
        ("nils", "short", "password"),
        ("nils", "x" * 513, "password"),
        ("olga", "another one", "name"),
    ],
)
async def test_an_operator_that_cannot_be_created_is_refused(
    door: Door, name: str, password: str, param: str
) -> None:
    new = door.new()
    await new.create("olga", "correct horse")
    with pytest.raises(Refusal) as refused:
        await new.create(name, password)
    assert refused.value.param == param
    assert list(door.operators._store.operators) == ["olga"]
