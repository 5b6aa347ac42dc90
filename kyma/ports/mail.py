"""Where letters are put; they leave later, by a worker, outside every transaction."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from kyma.mail import Claimed, Letter, Mail, State, Trouble


class Unprintable(Exception):
    """A letter's template and its facts do not fit: a mistake of ours that no retry mends."""


class NotTaken(Exception):
    """The mail certainly did not go, and may be tried again later."""


class Undeliverable(Exception):
    """The mail certainly did not go, and never will to this address."""


class OutcomeUnknown(Exception):
    """The connection was lost after the mail had been handed over and before the answer."""


class Outbox(Protocol):
    """Mails on their way."""

    async def post(self, mail: Mail) -> bool:
        """Keep a mail to be sent; False if one of this id was posted before."""
        ...


class Mails(Protocol):
    """The worker's side of the outbox. Times are the database's.

    A claim is a fence: `sent`, `put_off` and `end` do nothing and answer False unless the mail
    is being sent, or was lost sight of, under the claim they name.
    """

    async def claim(self, claim: str, lease_s: int) -> Claimed | None:
        """Take the mail that is due longest and mark it SENDING; None if none is due.

        Of any number of concurrent claims each gets another mail.
        """
        ...

    async def sent(self, id: str, claim: str) -> bool:
        """The server took it. Its secrets are erased."""
        ...

    async def put_off(self, id: str, claim: str, delay_s: int, error: str) -> bool:
        """It did not go; try again after so long."""
        ...

    async def end(self, id: str, claim: str, state: State, error: str) -> bool:
        """It is GIVEN_UP or its outcome UNKNOWN. Its secrets are erased."""
        ...

    async def lapse(self) -> int:
        """End leases that are over: their letters become UNKNOWN, and are not sent again."""
        ...

    async def troubled(self, limit: int = 100) -> Sequence[Trouble]:
        """Mails given up or of unknown outcome, newest first."""
        ...

    async def put_back(
        self, id: str, letters: Collection[Letter], operator: str, reason: str
    ) -> bool:
        """Let a troubled mail wait anew, due now, and note who had it so; its tries begin again.

        False if it is not troubled, is none of these letters, or its address is forgotten. Who
        had it last may still say that it was sent, as long as nobody claims it.
        """
        ...

    async def erase(self, after_days: int, limit: int = 5000) -> int:
        """Forget the address and the facts of mails that ended so long ago, never the id."""
        ...


@dataclass(frozen=True, slots=True)
class Printed:
    """A letter in words. `posted_at` and `id` make every copy of a mail the same, byte for byte."""

    id: str
    to: str
    posted_at: datetime
    subject: str
    text: str
    html: str


class Printer(Protocol):
    """Puts facts into words."""

    def print(self, mail: Mail, posted_at: datetime) -> Printed:
        """Subject, text and HTML of a mail, or `Unprintable`."""
        ...


class Carrier(Protocol):
    """Takes a letter to its address."""

    async def carry(self, letter: Printed) -> None:
        """Return once the letter has been taken over.

        Raises NotTaken, Undeliverable or OutcomeUnknown, and takes no longer than a minute.
        """
        ...


class Bell(Protocol):
    """Tells a worker that there is work, so that it need not wait for its next round."""

    async def ring(self) -> None:
        """A hint: it may be lost, and never raises for that."""
        ...
