"""The contract of requests for higher limits, on memory and on real Postgres; and their letters."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio

from adapters.memory.limit_requests import MemoryLimitRequests
from adapters.memory.mail import MemoryMails
from adapters.memory.runtime import MemoryChance, MemoryInvalidations
from adapters.memory.storage import MemoryAccounts, MemoryOverrides, MemoryStore
from adapters.postgres.accounts import PostgresAccounts, PostgresOverrides
from adapters.postgres.limit_requests import PostgresLimitRequests
from adapters.postgres.units import PostgresUnits
from adapters.system import SystemClock
from kyma.errors import Code, Refusal
from kyma.flows.limit_requests import HigherLimits
from kyma.flows.overrides import TierOverrides
from kyma.limit_requests import LimitRequest, State
from kyma.mail import Letter, Mail
from kyma.money import ZERO
from kyma.ports.limit_requests import LimitRequests
from kyma.ports.storage import Accounts, Overrides, StorageUnavailable
from kyma.tiers import Override
from tests.builders import a_key, a_session, an_account, new_id

UNTIL = datetime(2126, 6, 1, 18, 30, tzinfo=UTC)


class Posting(MemoryMails):
    """An outbox that can be away."""

    away: bool = False

    async def post(self, mail: Mail) -> bool:
        if self.away:
            raise StorageUnavailable("away")
        return await super().post(mail)


@dataclass
class Desk:
    """The port under test, and the flow over it."""

    requests: LimitRequests
    accounts: Accounts
    overrides: Overrides
    outbox: Posting = field(default_factory=Posting)
    invalidations: MemoryInvalidations = field(default_factory=MemoryInvalidations)
    chance: MemoryChance = field(default_factory=MemoryChance)

    @property
    def flow(self) -> HigherLimits:
        overrides = TierOverrides(
            self.accounts, self.overrides, SystemClock(), self.chance, self.invalidations
        )
        return HigherLimits(self.requests, overrides, self.outbox, self.chance)

    async def account(self, email: str | None = None) -> str:
        account = an_account(email)
        assert await self.accounts.register(account, a_key(account), a_session(account), ZERO)
        return account.id

    async def request(self, account_id: str | None = None) -> LimitRequest:
        account_id = account_id or await self.account("ada@example.com")
        found = await self.requests.add(new_id(), account_id, "Example", "support", "250 a minute")
        assert found is not None
        return found

    def letters(self) -> list[tuple[Letter, dict[str, str]]]:
        return [(row.letter, dict(row.facts)) for row in self.outbox.rows.values()]


@pytest.fixture
def memory_desk() -> Desk:
    store = MemoryStore()
    return Desk(MemoryLimitRequests(store), MemoryAccounts(store), MemoryOverrides(store))


@pytest_asyncio.fixture
async def postgres_desk(postgres_units: PostgresUnits) -> Desk:
    return Desk(
        PostgresLimitRequests(postgres_units),
        PostgresAccounts(postgres_units),
        PostgresOverrides(postgres_units),
    )


@pytest.fixture(params=["memory", "postgres"])
def desk(request: pytest.FixtureRequest) -> Desk:
    """Synchronous, so that the servers start outside of any event loop."""
    found: Desk = request.getfixturevalue(f"{request.param}_desk")
    return found


def an_override(account_id: str, **changes: object) -> Override:
    given = {
        "id": new_id(), "account_id": account_id, "level": 3, "operator": "olga",
        "reason": "pilot", "granted_at": datetime.now(UTC), "until": UNTIL,
    }  # fmt: skip
    return Override(**{**given, **changes})


async def test_a_request_is_kept_as_it_was_asked(desk: Desk) -> None:
    account = await desk.account("ada@example.com")
    request = await desk.request(account)
    assert (request.account_id, request.email) == (account, "ada@example.com")
    assert (request.company, request.use, request.expected_load) == (
        "Example",
        "support",
        "250 a minute",
    )
    assert abs(datetime.now(UTC) - request.requested_at) < timedelta(seconds=30)
    assert (request.state, request.answered_at, request.level) == (State.OPEN, None, None)
    assert list(await desk.requests.of(account)) == [request]
    assert list(await desk.requests.waiting()) == [request]
    assert list(await desk.requests.untold()) == []


async def test_of_many_requests_at_once_one_is_open(desk: Desk) -> None:
    account = await desk.account()
    found = await asyncio.gather(
        *(desk.requests.add(new_id(), account, "a", "b", "c") for _ in range(10))
    )
    assert found.count(None) == 9


async def test_requests_wait_in_the_order_in_which_they_came(desk: Desk) -> None:
    requests = [await desk.request(await desk.account()) for _ in range(3)]
    assert [each.id for each in await desk.requests.waiting()] == [each.id for each in requests]
    assert len(await desk.requests.waiting(limit=2)) == 2


async def test_an_approval_and_its_tier_are_one(desk: Desk) -> None:
    request = await desk.request()
    override = an_override(request.account_id)
    assert await desk.requests.approve(request.id, override) is True
    (answered,) = await desk.requests.of(request.account_id)
    assert (answered.state, answered.level, answered.until) == (State.APPROVED, 3, UNTIL)
    assert (answered.reason, answered.answered_at is None) == ("pilot", False)
    assert list(await desk.overrides.history(request.account_id)) == [override]
    assert list(await desk.requests.waiting()) == []


async def test_of_many_answers_at_once_one_counts(desk: Desk) -> None:
    request = await desk.request()
    approvals = [
        desk.requests.approve(request.id, an_override(request.account_id)) for _ in range(5)
    ]
    refusals = [desk.requests.decline(request.id, "nils", "no") for _ in range(5)]
    done = await asyncio.gather(*approvals, *refusals)
    assert done.count(True) == 1
    granted = await desk.overrides.history(request.account_id)
    assert len(granted) == sum(done[:5])


async def test_a_tier_of_another_account_answers_no_request(desk: Desk) -> None:
    request, other = await desk.request(), await desk.account()
    assert await desk.requests.approve(request.id, an_override(other)) is False
    assert list(await desk.overrides.history(other)) == []
    assert len(await desk.requests.waiting()) == 1


async def test_after_an_answer_one_may_ask_again(desk: Desk) -> None:
    request = await desk.request()
    assert await desk.requests.decline(request.id, "nils", "not yet") is True
    again = await desk.request(request.account_id)
    found = await desk.requests.of(request.account_id)
    assert [(each.id, each.state) for each in found] == [
        (again.id, State.OPEN),
        (request.id, State.DECLINED),
    ]


async def test_an_answer_is_untold_until_its_letter_was_posted(desk: Desk) -> None:
    request = await desk.request()
    await desk.requests.decline(request.id, "nils", "not yet")
    assert [each.id for each in await desk.requests.untold()] == [request.id]
    await desk.requests.told(request.id)
    assert list(await desk.requests.untold()) == []


async def test_approving_grants_announces_and_tells(desk: Desk) -> None:
    request = await desk.request()
    await desk.flow.approve(request, 4, " pilot with us ", UNTIL, "olga")
    (override,) = await desk.overrides.history(request.account_id)
    assert (override.level, override.reason, override.operator) == (4, "pilot with us", "olga")
    assert desk.invalidations.forgotten == [request.account_id]
    facts = {"tier": "Tier 4", "until": "2126-06-01 18:30 UTC", "reason": "pilot with us"}
    assert desk.letters() == [(Letter.TIER_GRANTED, facts)]
    assert list(await desk.requests.untold()) == []


async def test_an_approval_without_end_says_none(desk: Desk) -> None:
    await desk.flow.approve(await desk.request(), 4, "partner", None, "olga")
    assert desk.letters()[0][1]["until"] == ""


async def test_declining_tells_the_reason_and_grants_nothing(desk: Desk) -> None:
    request = await desk.request()
    await desk.flow.decline(request, "not with this load", "olga")
    assert desk.letters() == [(Letter.TIER_DECLINED, {"reason": "not with this load"})]
    assert list(await desk.overrides.history(request.account_id)) == []
    assert desk.invalidations.forgotten == []


@pytest.mark.parametrize(
    ("level", "reason", "until", "operator"),
    [
        (5, "pilot", None, "olga"),
        (-1, "pilot", None, "olga"),
        (4, "", None, "olga"),
        (4, "pilot", datetime(2020, 1, 1, tzinfo=UTC), "olga"),
        (4, "pilot", None, " "),
    ],
)
async def test_an_approval_keeps_the_rules_of_every_override(
    desk: Desk, level: int, reason: str, until: datetime | None, operator: str
) -> None:
    request = await desk.request()
    with pytest.raises(Refusal):
        await desk.flow.approve(request, level, reason, until, operator)
    assert len(await desk.requests.waiting()) == 1
    assert desk.letters() == []


async def test_a_second_answer_is_refused_in_words(desk: Desk) -> None:
    request = await desk.request()
    await desk.flow.decline(request, "not yet", "nils")
    with pytest.raises(Refusal, match="answered by somebody else"):
        await desk.flow.approve(request, 4, "pilot", None, "olga")
    with pytest.raises(Refusal, match="answered by somebody else"):
        await desk.flow.decline(request, "not now", "olga")
    assert list(await desk.overrides.history(request.account_id)) == []
    assert len(desk.letters()) == 1


async def test_an_answer_stands_although_its_letter_could_not_be_posted(desk: Desk) -> None:
    request = await desk.request()
    desk.outbox.away = True
    await desk.flow.decline(request, "not yet", "olga")
    assert desk.letters() == []
    desk.outbox.away = False
    assert await desk.flow.tell() == 1
    assert await desk.flow.tell() == 0
    assert len(desk.letters()) == 1


async def test_a_letter_that_was_posted_before_the_mark_is_not_posted_twice(desk: Desk) -> None:
    """As if the process had died between the two."""
    request = await desk.request()
    await desk.requests.decline(request.id, "olga", "not yet")
    facts = {"reason": "not yet"}
    await desk.outbox.post(Mail(f"limits/{request.id}", request.email, Letter.TIER_DECLINED, facts))
    assert await desk.flow.tell() == 1
    assert len(desk.letters()) == 1


async def test_asking_twice_is_refused_and_says_where_to_look(desk: Desk) -> None:
    account = await desk.account()
    await desk.flow.ask(account, "Example", "support", "much")
    with pytest.raises(Refusal, match="/v1/limits/requests") as refused:
        await desk.flow.ask(account, "Example", "support", "more")
    assert refused.value.code is Code.REQUEST_OPEN
    assert len(await desk.flow.mine(account)) == 1


async def test_what_people_write_is_kept_without_signs_that_no_text_has(desk: Desk) -> None:
    account = await desk.account()
    request = await desk.flow.ask(account, " Exa\x07mple ", "one\ntwo\x00", "<b>250</b> 🌊")
    assert (request.company, request.use) == ("Example", "one\ntwo")
    assert request.expected_load == "<b>250</b> 🌊"
