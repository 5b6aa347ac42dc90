"""The limit of whoever shows no known key or session, as the edge asks for it."""

from __future__ import annotations

from collections.abc import Callable

from adapters.http.errors import NO_KEY
from kyma.errors import Refusal
from kyma.strangers import Left, Strangers, beyond


class StrangerLimit:
    """The rule of `kyma.strangers` on a clock. `now` is seconds that never go back."""

    def __init__(self, strangers: Strangers, now: Callable[[], float]) -> None:
        self._strangers = strangers
        self._now = now

    def look(self, address: str | None) -> Left:
        """What is left to an address, without counting."""
        return self._strangers.look(address or "", self._now())

    def heard(self, refusal: Refusal, address: str | None) -> tuple[Refusal, Left]:
        """What becomes of a request whose sender is not known, and what is left to its address.

        Who shows no known key is counted, and beyond the limit hears that instead. A refusal for
        another reason, such as a database that is away, leaves open who it was: not counted, for
        it may be a customer.
        """
        if refusal.code not in NO_KEY:
            return refusal, self.look(address)
        left = self._strangers.take(address or "", self._now())
        return (beyond(left) if left.wait_s > 0 else refusal), left
