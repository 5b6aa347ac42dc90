"""An operator's end of a payment that was not credited, on Postgres: one transaction.

It locks the payment's row first and then the account's balance, as booking the payment does.
"""

from __future__ import annotations

from sqlalchemy import text

from adapters.postgres import ledger
from adapters.postgres.units import PostgresUnits
from kyma.ledger import Kind, Outcome
from kyma.orders import Settlement, deposit_id, is_id

PAYMENT = text(
    """
    SELECT order_id, settled_at IS NOT NULL OR (
        state = 'paid' AND entry_id IS NULL AND returned < amount) AS can_be
    FROM payments WHERE id = :payment FOR UPDATE
    """
)
SETTLE = text(
    "UPDATE payments SET settled_at = coalesce(settled_at, now()), refusal = '' WHERE id = :payment"
)
END_ORDER = text(
    "UPDATE orders SET state = 'credited', payment_id = :payment, message = :message,"
    " action_url = NULL, changed_at = clock_timestamp()"
    " WHERE id = :order AND account_id = :account AND state <> 'credited'"
)


class PostgresSettlements:
    """The `Settlements` port."""

    def __init__(self, units: PostgresUnits) -> None:
        self._units = units

    async def settle(self, settlement: Settlement) -> Outcome:
        """The grant has the id that the deposit would have: the ledger books one of them."""
        payment, account = settlement.payment_id, settlement.account_id
        id, reason = deposit_id(payment), settlement.note
        async with self._units.unit() as connection:
            row = (await connection.execute(PAYMENT, {"payment": payment})).first()
            if row is None or not row.can_be:
                return Outcome.NO_ENTRY
            outcome = await ledger.credit(
                connection, id, Kind.GRANT, account, settlement.amount, reason, settlement.operator
            )
            if outcome is not Outcome.DONE:
                return outcome
            await connection.execute(SETTLE, {"payment": payment})
            if is_id(row.order_id):
                values = {"payment": payment, "order": row.order_id, "account": account}
                await connection.execute(END_ORDER, {**values, "message": settlement.message})
        return outcome
