"""The throttle of signing in, of codes, letters and purchases. No setting switches it off."""

from __future__ import annotations

from collections.abc import Mapping

from kyma.errors import Code, Refusal, in_seconds
from kyma.ports.runtime import Attempts
from kyma.throttles import Guarded

WORDS: Mapping[Guarded, str] = {
    Guarded.LOGIN: "attempts to sign in",
    Guarded.REGISTER: "registrations",
    Guarded.CODE: "codes entered",
    Guarded.MAIL: "letters asked for",
    Guarded.PURCHASE: "purchases begun",
    Guarded.ASKING: "questions to the payment processor",
}


class Throttle:
    """Refuses who tries too often."""

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts

    async def take(self, kind: Guarded, address: str, subject: str) -> None:
        """Count an attempt of a client's `address` upon `subject`, or refuse it.

        The subject is an e-mail address or an account, whether or not there is one: what is
        refused tells nothing about it. Count before the secret is looked at, so that guesses
        made at once are counted each.
        """
        wait_s = await self._attempts.take(kind, address, subject)
        if wait_s > 0:
            raise Refusal(
                Code.TOO_MANY_ATTEMPTS,
                f"Too many {WORDS[kind]}. Try again in {in_seconds(wait_s)}.",
                retry_after_s=wait_s,
            )

    async def succeeded(self, kind: Guarded, address: str, subject: str) -> None:
        """The attempt was its owner's: only failures stay counted."""
        await self._attempts.give_back(kind, address, subject)
