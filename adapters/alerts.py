"""What an operator must hear about money, as lines of the log."""

from __future__ import annotations

import structlog

from kyma.ledger import Outcome
from kyma.money import decimal_text
from kyma.payments import Payment

log = structlog.get_logger("kyma.billing")


class LogBillingAlerts:
    """The `BillingAlerts` port: ids and amounts, no person."""

    def not_credited(self, payment: Payment, reason: str) -> None:
        """Also listed on the console until it is credited or has gone back."""
        log.error(
            "paid_not_credited",
            payment=payment.id,
            order=payment.order_id,
            amount=decimal_text(payment.amount),
            currency=payment.currency,
            reason=reason,
        )

    def not_reversed(self, payment: Payment, entry_id: str, outcome: Outcome) -> None:
        """The books and the processor differ by it until somebody looks."""
        log.error("reversal_not_booked", payment=payment.id, entry=entry_id, outcome=outcome.value)

    def not_read(self, which: str) -> None:
        """What somebody wrote into it at the processor has to be put right there."""
        log.error("payment_not_read", which=which)

    def left_waiting(self, what: str, error: BaseException) -> None:
        """Nothing is lost: the next round does it."""
        log.warning("left_for_the_next_round", what=what, error=f"{type(error).__name__}: {error}")
