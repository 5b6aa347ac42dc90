"""The post: letters are kept first, and delivered by a worker: claim, print, carry, mark.

A letter is marked SENDING before it is handed to anybody. Where a worker dies after that, nobody
knows whether it went: it is left as it is, for an operator to see. So a letter may be lost,
seldom, and is not sent twice.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping

from kyma.errors import Code, Refusal
from kyma.flows.access import unavailable
from kyma.flows.overrides import checked_operator, checked_reason
from kyma.mail import RETURNABLE, Claimed, Mail, State, delay_s
from kyma.ports.mail import (
    Bell,
    Carrier,
    Mails,
    NotTaken,
    Outbox,
    OutcomeUnknown,
    Printer,
    Undeliverable,
    Unprintable,
)
from kyma.ports.runtime import Chance, Clock
from kyma.ports.storage import StorageUnavailable

LEASE_S = 180
"""Above what a carrier may take, so that no letter is carried by two."""

LANES = 4
"""Letters that one worker carries at once."""

ROUND_S = 20.0
"""No letter is begun after so long: a round ends within its job's time."""


class PromptOutbox:
    """An `Outbox` that rings for a worker when something was put into it."""

    def __init__(self, outbox: Outbox, bell: Bell) -> None:
        self._outbox = outbox
        self._bell = bell

    async def post(self, mail: Mail) -> bool:
        """Keep a mail; it is on its way at once, or by the next round if the bell is not heard."""
        posted = await self._outbox.post(mail)
        if posted:
            await self._bell.ring()
        return posted


class LostLetters:
    """Letters that did not go, and an operator who has one sent after all."""

    def __init__(self, mails: Mails, bell: Bell) -> None:
        self._mails = mails
        self._bell = bell

    async def put_back(self, id: str, reason: str, operator: str) -> None:
        """Let it wait anew; of unknown outcome it may then come twice, which is theirs to judge."""
        reason, operator = checked_reason(reason), checked_operator(operator)
        try:
            done = await self._mails.put_back(id, RETURNABLE, operator, reason)
        except StorageUnavailable as error:
            raise unavailable() from error
        if not done:
            raise Refusal(
                Code.NOT_FOUND,
                "This letter cannot be put back: it has gone or waits already, its address is "
                "forgotten, or it is about a link, which is dead.",
            )
        await self._bell.ring()


class Delivery:
    """Carries what is due."""

    def __init__(
        self, mails: Mails, printer: Printer, carrier: Carrier, clock: Clock, chance: Chance
    ) -> None:
        self._mails = mails
        self._printer = printer
        self._carrier = carrier
        self._clock = clock
        self._chance = chance
        self._under_way: set[asyncio.Task[State | None]] = set()

    async def round(self, within_s: float = ROUND_S) -> Mapping[State, int]:
        """Deliver until nothing is due or the time is over; what became of how many."""
        await self._mails.lapse()
        until = self._clock.monotonic() + within_s
        done: Counter[State] = Counter()
        await asyncio.gather(*(self._lane(until, done) for _ in range(LANES)))
        return done

    async def drained(self) -> None:
        """Let what is being carried come to its end, whatever it is, before this process stops."""
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _lane(self, until: float, done: Counter[State]) -> None:
        while self._clock.monotonic() < until:
            # Shielded: a worker that is told to stop finishes the letter in its hands.
            task = asyncio.create_task(self._next())
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            state = await asyncio.shield(task)
            if state is None:
                return
            done[state] += 1

    async def _next(self) -> State | None:
        """One letter, from its claim to its mark; None if none is due."""
        claimed = await self._mails.claim(self._chance.id(), LEASE_S)
        if claimed is None:
            return None
        try:
            await self._carrier.carry(self._printer.print(claimed.mail, claimed.posted_at))
        except NotTaken as error:
            return await self._later(claimed, str(error))
        except (Undeliverable, Unprintable) as error:
            return await self._end(claimed, State.GIVEN_UP, str(error))
        except OutcomeUnknown as error:
            return await self._end(claimed, State.UNKNOWN, str(error))
        await self._mails.sent(claimed.mail.id, claimed.claim)
        return State.SENT

    async def _later(self, claimed: Claimed, error: str) -> State:
        delay = delay_s(claimed.tries)
        if delay is None:
            return await self._end(claimed, State.GIVEN_UP, error)
        await self._mails.put_off(claimed.mail.id, claimed.claim, delay, error)
        return State.WAITING

    async def _end(self, claimed: Claimed, state: State, error: str) -> State:
        await self._mails.end(claimed.mail.id, claimed.claim, state, error)
        return state
