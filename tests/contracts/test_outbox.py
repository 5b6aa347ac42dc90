"""The contract of the outbox, on memory and on real Postgres alike."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import orjson
import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from adapters.mail.message import sender_of
from adapters.mail.render import JinjaPrinter
from adapters.mail.smtp import Security, Server, SmtpCarrier
from adapters.memory.mail import MemoryMails
from adapters.memory.runtime import MemoryChance
from adapters.postgres.mail import PostgresMails
from adapters.postgres.units import PostgresUnits
from adapters.system import SystemClock
from kyma.flows.post import LEASE_S, Delivery
from kyma.mail import RETURNABLE, Letter, Mail, State
from tests.builders import new_id
from tests.smtp_server import SmtpServer, smtp_server

DAY_S = 86_400.0


@dataclass
class Office:
    """The port under test; `pass_time` makes everything written so far so much older."""

    mails: MemoryMails | PostgresMails
    pass_time: Callable[[float], Awaitable[None]]
    kept: Callable[[str], Awaitable[tuple[str, Mapping[str, str], State]]]
    """Address, facts and state as they are stored."""

    async def claimed(self, claim: str | None = None) -> str:
        """Claim a mail under this claim; the mail's id."""
        found = await self.mails.claim(claim or new_id(), LEASE_S)
        assert found is not None
        return found.mail.id


@pytest.fixture
def memory_office() -> Office:
    offset = [0.0]
    mails = MemoryMails(lambda: datetime.now(UTC) + timedelta(seconds=offset[0]))

    async def pass_time(seconds: float) -> None:
        offset[0] += seconds

    async def kept(id: str) -> tuple[str, Mapping[str, str], State]:
        row = mails.rows[id]
        return row.to, row.facts, row.state

    return Office(mails, pass_time, kept)


@pytest_asyncio.fixture
async def postgres_office(postgres_units: PostgresUnits) -> Office:
    async def pass_time(seconds: float) -> None:
        moved = ", ".join(
            f"{column} = {column} - make_interval(secs => :by)" for column in ("due_at", "ended_at")
        )
        async with postgres_units.unit() as connection:
            await connection.execute(text(f"UPDATE mails SET {moved}"), {"by": seconds})

    async def kept(id: str) -> tuple[str, Mapping[str, str], State]:
        query = text("SELECT recipient, facts::text AS facts, state FROM mails WHERE id = :id")
        async with postgres_units.unit() as connection:
            row = (await connection.execute(query, {"id": id})).one()
        return row.recipient, orjson.loads(row.facts), State(row.state)

    return Office(PostgresMails(postgres_units), pass_time, kept)


@pytest.fixture(params=["memory", "postgres"])
def office(request: pytest.FixtureRequest) -> Office:
    """Synchronous, so that the servers start outside of any event loop."""
    found: Office = request.getfixturevalue(f"{request.param}_office")
    return found


RESET_FACTS = {"reset_url": "https://kyma.example/reset?t=s3cret", "name": "Ada 🌊 \\ 'x'"}


def a_mail(id: str | None = None, letter: Letter = Letter.WELCOME) -> Mail:
    facts = {Letter.RESET: RESET_FACTS, Letter.RECEIPT: {"amount": "20"}}.get(letter, {})
    return Mail(id or new_id(), "ada@example.com", letter, facts)


async def test_a_mail_is_posted_once_under_its_id(office: Office) -> None:
    assert await office.mails.post(a_mail("welcome/1")) is True
    assert await office.mails.post(a_mail("welcome/1", Letter.RESET)) is False
    assert await office.mails.post(a_mail("welcome/2")) is True


async def test_of_many_posts_at_once_one_counts(office: Office) -> None:
    posted = await asyncio.gather(*(office.mails.post(a_mail("welcome/1")) for _ in range(20)))
    assert sorted(posted) == [False] * 19 + [True]


async def test_a_claimed_mail_is_as_it_was_posted(office: Office) -> None:
    mail = a_mail("reset/1", Letter.RESET)
    await office.mails.post(mail)
    claim = new_id()
    found = await office.mails.claim(claim, LEASE_S)
    assert found is not None
    assert found.mail == mail
    assert (found.claim, found.tries) == (claim, 1)
    assert abs((datetime.now(UTC) - found.posted_at).total_seconds()) < 30
    assert found.posted_at.utcoffset() == timedelta(0)


async def test_mails_are_claimed_in_turn_and_each_by_one(office: Office) -> None:
    ids = [f"welcome/{number}" for number in range(5)]
    for id in ids:
        await office.mails.post(a_mail(id))
        await office.pass_time(1)
    assert [await office.claimed() for _ in ids] == ids
    assert await office.mails.claim(new_id(), LEASE_S) is None


async def test_of_many_claims_at_once_each_gets_another_mail(office: Office) -> None:
    for number in range(5):
        await office.mails.post(a_mail(f"welcome/{number}"))
    found = await asyncio.gather(*(office.mails.claim(new_id(), LEASE_S) for _ in range(20)))
    ids = [claimed.mail.id for claimed in found if claimed is not None]
    assert sorted(ids) == [f"welcome/{number}" for number in range(5)]


async def test_what_was_sent_is_not_sent_again_and_keeps_no_secret(office: Office) -> None:
    await office.mails.post(a_mail("reset/1", Letter.RESET))
    claim = new_id()
    await office.claimed(claim)
    assert await office.mails.sent("reset/1", claim) is True
    to, facts, state = await office.kept("reset/1")
    assert (to, facts, state) == ("ada@example.com", {"name": RESET_FACTS["name"]}, State.SENT)
    assert await office.mails.post(a_mail("reset/1", Letter.RESET)) is False
    await office.pass_time(DAY_S)
    assert await office.mails.lapse() == 0
    assert await office.mails.claim(new_id(), LEASE_S) is None


async def test_what_was_put_off_comes_again_when_its_time_is_over(office: Office) -> None:
    await office.mails.post(a_mail("reset/1", Letter.RESET))
    claim = new_id()
    await office.claimed(claim)
    assert await office.mails.put_off("reset/1", claim, 60, "450 later") is True
    assert await office.mails.claim(new_id(), LEASE_S) is None
    await office.pass_time(61)
    again = await office.mails.claim(new_id(), LEASE_S)
    assert again is not None
    assert (again.mail.facts, again.tries) == (RESET_FACTS, 2)


@pytest.mark.parametrize("end", [State.GIVEN_UP, State.UNKNOWN])
async def test_an_end_is_final_and_shown_to_operators(office: Office, end: State) -> None:
    await office.mails.post(a_mail("reset/1", Letter.RESET))
    claim = new_id()
    await office.claimed(claim)
    assert await office.mails.end("reset/1", claim, end, "550 no such mailbox") is True
    (trouble,) = await office.mails.troubled()
    assert (trouble.id, trouble.letter, trouble.to) == ("reset/1", Letter.RESET, "ada@example.com")
    assert (trouble.state, trouble.tries, trouble.error) == (end, 1, "550 no such mailbox")
    assert (await office.kept("reset/1"))[1] == {"name": RESET_FACTS["name"]}
    await office.pass_time(DAY_S)
    assert await office.mails.claim(new_id(), LEASE_S) is None


async def test_troubles_are_shown_newest_first_and_no_more_than_asked_for(office: Office) -> None:
    for number in range(3):
        await office.mails.post(a_mail(f"welcome/{number}"))
        claim = new_id()
        id = await office.claimed(claim)
        await office.mails.end(id, claim, State.GIVEN_UP, "")
        await office.pass_time(10)
    found = await office.mails.troubled(limit=2)
    assert [trouble.id for trouble in found] == ["welcome/2", "welcome/1"]


async def test_only_whoever_has_the_claim_may_say_how_it_ended(office: Office) -> None:
    await office.mails.post(a_mail("welcome/1"))
    await office.claimed()
    stranger = new_id()
    assert await office.mails.sent("welcome/1", stranger) is False
    assert await office.mails.put_off("welcome/1", stranger, 1, "") is False
    assert await office.mails.end("welcome/1", stranger, State.GIVEN_UP, "") is False
    assert (await office.kept("welcome/1"))[2] is State.SENDING


async def test_a_lease_that_is_over_leaves_a_letter_alone_whatever_it_is(office: Office) -> None:
    """Nobody knows whether it went, and a link is asked for again."""
    await office.mails.post(a_mail("receipt/1", Letter.RECEIPT))
    await office.mails.post(a_mail("reset/1", Letter.RESET))
    for claim in (new_id(), new_id()):
        await office.claimed(claim)
    assert await office.mails.lapse() == 0
    await office.pass_time(LEASE_S + 1)
    assert await office.mails.lapse() == 2
    for id in ("receipt/1", "reset/1"):
        assert (await office.kept(id))[2] is State.UNKNOWN
    assert (await office.kept("reset/1"))[1] == {"name": RESET_FACTS["name"]}
    await office.pass_time(DAY_S)
    assert await office.mails.claim(new_id(), LEASE_S) is None


async def test_a_worker_that_was_only_slow_may_still_say_that_it_was_sent(office: Office) -> None:
    await office.mails.post(a_mail("receipt/1", Letter.RECEIPT))
    claim = new_id()
    await office.claimed(claim)
    await office.pass_time(LEASE_S + 1)
    await office.mails.lapse()
    assert await office.mails.sent("receipt/1", claim) is True
    assert await office.mails.troubled() == []


async def test_a_worker_that_was_overtaken_has_nothing_to_say(office: Office) -> None:
    """An operator took the letter of a worker that was only slow for lost."""
    await office.mails.post(a_mail("receipt/1", Letter.RECEIPT))
    slow, other = new_id(), new_id()
    await office.claimed(slow)
    await office.pass_time(LEASE_S + 1)
    await office.mails.lapse()
    assert await put_back(office, "receipt/1")
    await office.claimed(other)
    assert await office.mails.sent("receipt/1", slow) is False
    assert await office.mails.end("receipt/1", slow, State.GIVEN_UP, "") is False
    assert await office.mails.sent("receipt/1", other) is True


async def test_old_mails_lose_their_address_and_never_their_id(office: Office) -> None:
    for number in range(2):
        await office.mails.post(a_mail(f"welcome/{number}"))
    claim = new_id()
    id = await office.claimed(claim)
    await office.mails.sent(id, claim)
    assert await office.mails.erase(after_days=30) == 0
    await office.pass_time(31 * DAY_S)
    assert await office.mails.erase(after_days=30) == 1
    assert await office.mails.erase(after_days=30) == 0
    assert await office.kept(id) == ("", {}, State.SENT)
    assert await office.mails.post(a_mail(id)) is False
    assert (await office.kept("welcome/1"))[0] == "ada@example.com"


async def troubled(office: Office, letter: Letter = Letter.RECEIPT) -> tuple[str, str]:
    """A letter that was given up: its id, and the claim of whoever had it."""
    mail, claim = a_mail(None, letter), new_id()
    await office.mails.post(mail)
    await office.claimed(claim)
    await office.mails.end(mail.id, claim, State.GIVEN_UP, "550 no such mailbox")
    return mail.id, claim


async def put_back(office: Office, id: str) -> bool:
    return await office.mails.put_back(id, RETURNABLE, "olga", "mended")


@pytest.mark.parametrize("end", [State.GIVEN_UP, State.UNKNOWN])
async def test_a_letter_that_was_put_back_goes_as_it_was_posted(office: Office, end: State) -> None:
    mail, claim = a_mail("receipt/1", Letter.RECEIPT), new_id()
    await office.mails.post(mail)
    first = await office.mails.claim(claim, LEASE_S)
    assert first is not None
    await office.mails.end(mail.id, claim, end, "550 no such mailbox")
    assert await put_back(office, mail.id) is True
    assert await office.mails.troubled() == []
    again = await office.mails.claim(new_id(), LEASE_S)
    assert again is not None
    assert (again.mail, again.tries, again.posted_at) == (mail, 2, first.posted_at)
    assert await office.mails.sent(mail.id, again.claim) is True


async def test_of_many_who_put_a_letter_back_one_does(office: Office) -> None:
    id, _ = await troubled(office)
    done = await asyncio.gather(*(put_back(office, id) for _ in range(10)))
    assert sorted(done) == [False] * 9 + [True]
    await office.claimed()
    assert await office.mails.claim(new_id(), LEASE_S) is None


async def test_what_waits_goes_has_gone_or_never_was_is_not_put_back(office: Office) -> None:
    id = "receipt/1"
    await office.mails.post(a_mail(id, Letter.RECEIPT))
    assert await put_back(office, id) is False
    claim = new_id()
    await office.claimed(claim)
    assert await put_back(office, id) is False
    await office.mails.sent(id, claim)
    assert await put_back(office, id) is False
    assert await put_back(office, "receipt/2") is False
    assert (await office.kept(id))[2] is State.SENT


async def test_a_letter_about_a_link_is_not_put_back_for_its_link_is_gone(office: Office) -> None:
    id, _ = await troubled(office, Letter.RESET)
    assert await put_back(office, id) is False
    assert (await office.kept(id))[2] is State.GIVEN_UP


async def test_a_letter_whose_address_is_forgotten_is_not_put_back(office: Office) -> None:
    id, _ = await troubled(office)
    await office.pass_time(31 * DAY_S)
    await office.mails.erase(after_days=30)
    assert await put_back(office, id) is False


async def test_a_late_word_that_it_was_sent_ends_what_was_put_back(office: Office) -> None:
    id, claim = await troubled(office)
    assert await put_back(office, id) is True
    assert await office.mails.end(id, claim, State.GIVEN_UP, "") is False
    assert await office.mails.sent(id, claim) is True
    assert await office.mails.claim(new_id(), LEASE_S) is None


async def test_who_put_a_letter_back_stays_on_record(postgres_units: PostgresUnits) -> None:
    mails, claim = PostgresMails(postgres_units), new_id()
    await mails.post(a_mail("receipt/1", Letter.RECEIPT))
    await mails.claim(claim, LEASE_S)
    await mails.end("receipt/1", claim, State.UNKNOWN, "the line went dead")
    await mails.put_back("receipt/1", RETURNABLE, "olga", "not in their log")
    async with postgres_units.unit() as connection:
        row = (await connection.execute(text("SELECT * FROM mails_put_back"))).one()
    told = (row.mail_id, row.operator, row.reason, row.was, row.tries, row.error)
    line = "the line went dead"
    assert told == ("receipt/1", "olga", "not in their log", "unknown", 1, line)
    with pytest.raises(DBAPIError, match="append-only"):
        async with postgres_units.unit() as connection:
            await connection.execute(text("DELETE FROM mails_put_back"))


def a_worker(office: Office, server: SmtpServer) -> Delivery:
    sender = sender_of("Kyma <hello@kyma.example>")
    carrier = SmtpCarrier(Server("127.0.0.1", server.port, Security.NONE), sender)
    printer = JinjaPrinter("https://kyma.example")
    return Delivery(office.mails, printer, carrier, SystemClock(), MemoryChance())


async def test_two_workers_at_once_send_each_letter_once(office: Office) -> None:
    for number in range(30):
        await office.mails.post(a_mail(f"receipt/{number}", Letter.RECEIPT))
    async with smtp_server() as server:
        done = await asyncio.gather(*(a_worker(office, server).round() for _ in range(2)))
    assert sum(counts.get(State.SENT, 0) for counts in done) == 30
    assert len({message["Message-ID"] for message in server.messages}) == 30
    assert len(server.messages) == 30


async def test_a_worker_that_dies_after_the_server_took_the_letter_sends_none_twice(
    office: Office,
) -> None:
    await office.mails.post(a_mail("receipt/1", Letter.RECEIPT))
    await office.mails.post(a_mail("reset/1", Letter.RESET))
    async with smtp_server() as server:
        server.hang_up_on_data = True  # taken, and nobody hears of it
        dying = a_worker(office, server)
        for _ in range(2):
            claimed = await office.mails.claim(new_id(), LEASE_S)
            assert claimed is not None
            letter = dying._printer.print(claimed.mail, claimed.posted_at)
            with pytest.raises(Exception, match="Disconnected"):
                await dying._carrier.carry(letter)
        # … and here it dies, with both letters in its hands.
        server.hang_up_on_data = False
        await office.pass_time(LEASE_S + 1)
        await a_worker(office, server).round()
        await office.pass_time(DAY_S)
        await a_worker(office, server).round()
    subjects = [message["Subject"] for message in server.messages]
    assert sorted(subjects) == ["Receipt: $20.00 of Kyma credit", "Set a new password"]
    troubled = {trouble.id: trouble.state for trouble in await office.mails.troubled()}
    assert troubled == {"receipt/1": State.UNKNOWN, "reset/1": State.UNKNOWN}
