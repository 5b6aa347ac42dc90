"""What was paid and not credited, and an operator who settles it by hand."""

from __future__ import annotations

from kyma.errors import Code, Refusal
from kyma.flows.access import unavailable
from kyma.flows.overrides import checked_operator, checked_reason
from kyma.ledger import Outcome
from kyma.money import ZERO, Usd, decimal_text
from kyma.orders import CENT, Settlement, is_id
from kyma.payments import MAX_PURCHASE
from kyma.ports.billing import Settlements
from kyma.ports.storage import StorageUnavailable

GOOD = frozenset({Outcome.DONE, Outcome.EXISTS})
WORDS = {
    Outcome.NO_ENTRY: "This payment is not on the list: it was credited, or has gone back.",
    Outcome.NO_ACCOUNT: "There is no such account.",
    Outcome.MISMATCH: "This payment was settled before, for another account or amount.",
}


class UncreditedPayments:
    """The other remedy is a refund at the processor; what was settled is not to be refunded."""

    def __init__(self, settlements: Settlements) -> None:
        self._settlements = settlements

    async def settle(
        self, payment_id: str, account_id: str, amount: Usd, reason: str, operator: str
    ) -> Settlement:
        """Give an account credit for a payment, once; the payment leaves the list.

        Its order, if it is the account's, is credited with that, and whoever waits for it goes on.
        """
        if not ZERO < amount <= MAX_PURCHASE or amount % CENT:
            raise Refusal(
                Code.INVALID_VALUE,
                f"The credit must be whole cents, at most {decimal_text(MAX_PURCHASE)} dollars.",
                param="amount",
            )
        plain = account_id.strip().replace("-", "").lower()
        reason, operator = checked_reason(reason), checked_operator(operator)
        settlement = Settlement(payment_id, plain, amount, operator, reason)
        outcome = await self._settled(settlement) if is_id(plain) else Outcome.NO_ACCOUNT
        if outcome not in GOOD:
            raise Refusal(Code.INVALID_VALUE, f"{WORDS[outcome]} No credit was given.")
        return settlement

    async def _settled(self, settlement: Settlement) -> Outcome:
        try:
            return await self._settlements.settle(settlement)
        except StorageUnavailable as error:
            raise unavailable() from error
