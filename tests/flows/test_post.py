"""Delivery: what becomes of a letter that goes, that does not, and of which nobody knows."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from adapters.mail.render import JinjaPrinter
from adapters.mail.smtp import CONVERSATION_S
from adapters.memory.mail import MemoryBell, MemoryCarrier, MemoryMails
from adapters.memory.runtime import MemoryChance, MemoryClock
from kyma.flows.post import LANES, LEASE_S, Delivery, PromptOutbox
from kyma.mail import LONGEST_DELAY_S, MAX_TRIES, Letter, Mail, State, delay_s
from kyma.ports.mail import Carrier, NotTaken, OutcomeUnknown, Printed, Undeliverable

RECEIPT = Mail("receipt/1", "ada@example.com", Letter.RECEIPT, {"amount": "20"})
RESET = Mail("reset/1", "ada@example.com", Letter.RESET, {"reset_url": "https://x.example/s3cret"})


@dataclass
class Office:
    """Delivery over memory, with a carrier that fails as told."""

    carrier: Carrier = field(default_factory=MemoryCarrier)
    clock: MemoryClock = field(default_factory=MemoryClock)

    def __post_init__(self) -> None:
        self.mails = MemoryMails(self.clock.now)
        printer = JinjaPrinter("https://kyma.example")
        self.delivery = Delivery(self.mails, printer, self.carrier, self.clock, MemoryChance())

    def state(self, mail: Mail) -> State:
        return self.mails.rows[mail.id].state


def failing(*failures: Exception) -> Office:
    return Office(MemoryCarrier(failures=list(failures)))


def bag(office: Office) -> list[Printed]:
    assert isinstance(office.carrier, MemoryCarrier)
    return office.carrier.bag


async def test_what_is_due_is_delivered_in_one_round() -> None:
    office = Office()
    for number in range(20):
        await office.mails.post(Mail(f"welcome/{number}", "ada@example.com", Letter.WELCOME))
    assert await office.delivery.round() == {State.SENT: 20}
    assert len(bag(office)) == 20
    assert await office.delivery.round() == {}


async def test_a_letter_that_does_not_go_is_tried_again_after_a_while() -> None:
    office = failing(NotTaken("450"), NotTaken("cannot connect"))
    await office.mails.post(RECEIPT)
    assert await office.delivery.round() == {State.WAITING: 1}
    assert await office.delivery.round() == {}
    office.clock.move(60)
    assert await office.delivery.round() == {State.WAITING: 1}
    office.clock.move(60)
    assert await office.delivery.round() == {}
    office.clock.move(60)
    assert await office.delivery.round() == {State.SENT: 1}


async def test_a_letter_that_never_goes_is_given_up_and_shown() -> None:
    office = failing(*[NotTaken("450 later")] * 100)
    await office.mails.post(RESET)
    tries = 0
    for _ in range(60):
        tries += sum((await office.delivery.round()).values())
        office.clock.move(LONGEST_DELAY_S)
    assert tries == MAX_TRIES
    (trouble,) = await office.mails.troubled()
    assert (trouble.state, trouble.tries, trouble.error) == (State.GIVEN_UP, 12, "450 later")
    assert office.mails.rows[RESET.id].facts == {}


async def test_a_refusal_for_good_is_not_tried_again() -> None:
    office = failing(Undeliverable("550 no such mailbox"))
    await office.mails.post(RESET)
    assert await office.delivery.round() == {State.GIVEN_UP: 1}
    office.clock.move(LONGEST_DELAY_S)
    assert await office.delivery.round() == {}


async def test_a_letter_that_cannot_be_written_is_given_up_and_holds_nobody_up() -> None:
    office = Office()
    await office.mails.post(Mail("receipt/2", "ada@example.com", Letter.RECEIPT, {"amount": "x"}))
    await office.mails.post(RECEIPT)
    assert await office.delivery.round() == {State.GIVEN_UP: 1, State.SENT: 1}
    (trouble,) = await office.mails.troubled()
    assert "'x' is no amount" in trouble.error


async def test_a_letter_whose_outcome_is_unknown_is_never_sent_again() -> None:
    office = failing(OutcomeUnknown("lost"), OutcomeUnknown("lost"))
    await office.mails.post(RECEIPT)
    await office.mails.post(RESET)
    assert await office.delivery.round() == {State.UNKNOWN: 2}
    office.clock.move(LONGEST_DELAY_S)
    assert await office.delivery.round() == {}
    assert bag(office) == []
    assert {office.state(mail) for mail in (RECEIPT, RESET)} == {State.UNKNOWN}
    assert office.mails.rows[RESET.id].facts == {}  # whoever waits for it asks for another link


async def test_a_round_begins_no_letter_when_its_time_is_over() -> None:
    office = Office()
    await office.mails.post(RECEIPT)
    assert await office.delivery.round(within_s=0) == {}
    assert office.state(RECEIPT) is State.WAITING


class Slow:
    """A carrier that waits to be let on."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()
        self.carried = 0

    async def carry(self, letter: Printed) -> None:
        self.begun.set()
        await self.may_end.wait()
        self.carried += 1


async def test_a_worker_that_is_told_to_stop_finishes_the_letter_in_its_hands() -> None:
    slow = Slow()
    office = Office(slow)
    await office.mails.post(RECEIPT)
    round_ = asyncio.create_task(office.delivery.round())
    await slow.begun.wait()
    round_.cancel()
    with pytest.raises(asyncio.CancelledError):
        await round_
    assert office.state(RECEIPT) is State.SENDING
    slow.may_end.set()
    await office.delivery.drained()
    assert (slow.carried, office.state(RECEIPT)) == (1, State.SENT)


async def test_letters_are_carried_side_by_side_but_not_all_at_once() -> None:
    slow = Slow()
    office = Office(slow)
    for number in range(LANES + 3):
        await office.mails.post(Mail(f"welcome/{number}", "ada@example.com", Letter.WELCOME))
    round_ = asyncio.create_task(office.delivery.round())
    await slow.begun.wait()
    await asyncio.sleep(0)
    states = [row.state for row in office.mails.rows.values()]
    assert states.count(State.SENDING) == LANES
    slow.may_end.set()
    assert await round_ == {State.SENT: LANES + 3}


async def test_the_bell_rings_for_what_is_new_and_not_for_a_repetition() -> None:
    mails, bell = MemoryMails(), MemoryBell()
    outbox = PromptOutbox(mails, bell)
    assert await outbox.post(RECEIPT) is True
    assert await outbox.post(RECEIPT) is False
    assert bell.rung == 1


def test_delays_double_up_to_a_limit_and_end() -> None:
    delays = [delay_s(tries) for tries in range(1, MAX_TRIES + 1)]
    assert delays == [60, 120, 240, 480, 960, 1920, 3840, 7680, 14400, 14400, 14400, None]
    total = timedelta(seconds=sum(delay or 0 for delay in delays))
    assert timedelta(hours=16) < total < timedelta(hours=18)
    assert delay_s(MAX_TRIES + 5) is None


def test_a_lease_outlives_the_longest_conversation() -> None:
    assert LEASE_S > 2 * CONVERSATION_S
