"""Orders, customers, payments and processor events on Postgres.

What a payment causes is written in one transaction, which locks the payment's row first and
then the account's balance: any number of deliveries of one payment wait for one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.postgres import ledger
from adapters.postgres.topup_settings import put_setting, setting_of
from adapters.postgres.units import PostgresUnits
from kyma.ledger import Flag, Kind, Outcome
from kyma.money import Usd
from kyma.orders import (
    Booked,
    Customer,
    KnownOrder,
    OrderState,
    Posting,
    Ruling,
    Uncredited,
    returned,
)
from kyma.payments import Checkout, Event, Order, Payment, PaymentState, Source
from kyma.ports.billing import NotBooked
from kyma.topups import after_reversals

CUSTOMER = text(
    "SELECT a.email, b.customer FROM accounts a"
    " LEFT JOIN billing_customers b ON b.account_id = a.id WHERE a.id = :account"
)
REMEMBER = text(
    "INSERT INTO billing_customers (account_id, customer) VALUES (:account, :customer)"
    " ON CONFLICT (account_id) DO UPDATE SET customer = CASE billing_customers.customer"
    " WHEN :instead_of THEN excluded.customer ELSE billing_customers.customer END"
    " RETURNING customer"
)
ORDER = """
    o.id::text AS id, o.account_id::text AS account_id, o.customer, o.amount, o.source,
    o.created_at, o.state, o.message, o.action_url, o.checkout_id, o.checkout_url, o.expires_at,
    o.payment_id
"""
OPEN = text(
    "INSERT INTO orders (id, account_id, customer, amount, source, created_at)"
    " VALUES (:id, :account, :customer, :amount, :source, :created_at) ON CONFLICT DO NOTHING"
)
BY_ID = text(f"SELECT {ORDER} FROM orders o WHERE o.id = :id")  # noqa: S608 - a constant
ATTACH = text(
    "UPDATE orders SET checkout_id = :checkout, checkout_url = :url, expires_at = :expires_at,"
    " changed_at = clock_timestamp() WHERE id = :id"
)
CLOSE = text(
    "UPDATE orders SET state = :state, message = :message, changed_at = clock_timestamp()"
    " WHERE id = :id AND state IN ('open', 'needs_action')"
)
TAKE = text(
    f"""
    WITH taken AS (
        SELECT id, changed_at FROM orders WHERE state IN ('open', 'needs_action')
        ORDER BY changed_at LIMIT :limit FOR UPDATE SKIP LOCKED
    ), moved AS (
        UPDATE orders SET changed_at = clock_timestamp() FROM taken WHERE orders.id = taken.id
    )
    SELECT {ORDER} FROM orders o JOIN taken USING (id) ORDER BY taken.changed_at
    """  # noqa: S608 - the piece is a constant of this module
)
KEEP_PAYMENT = text(
    """
    INSERT INTO payments AS p (id, order_id, account_id, customer, amount, tax, currency, state,
                               card, receipt_url, invoice_url, created_at)
    VALUES (:id, :order_id, :account_id, :customer, :amount, :tax, :currency, :state,
            :card, :receipt_url, :invoice_url, :created_at)
    ON CONFLICT (id) DO UPDATE SET
        state = CASE p.state WHEN 'paid' THEN p.state ELSE excluded.state END,
        amount = excluded.amount, tax = excluded.tax, card = excluded.card,
        receipt_url = excluded.receipt_url, invoice_url = excluded.invoice_url, seen_at = now()
    RETURNING p.refusal
    """
)
MARK_PAYMENT = text(
    """
    UPDATE payments SET returned = :returned,
        entry_id = coalesce(entry_id, CAST(:entry AS uuid)),
        refusal = CASE WHEN coalesce(entry_id, CAST(:entry AS uuid)) IS NULL
                        AND settled_at IS NULL THEN :refusal ELSE '' END
    WHERE id = :id RETURNING refusal
    """
)
MOVES = "state IN ('open', 'needs_action') OR :state IN ('credited', 'refused')"
ADVANCE = text(
    f"""
    UPDATE orders SET payment_id = :payment, changed_at = clock_timestamp(),
        state = CASE WHEN {MOVES} THEN :state ELSE state END,
        message = CASE WHEN {MOVES} THEN :message ELSE message END,
        action_url = CASE WHEN {MOVES} THEN :action_url ELSE action_url END
    WHERE id = :id AND state <> 'credited'
    """  # noqa: S608 - the piece is a constant of this module
)
"""What has ended is moved by a payment that was paid alone: nothing else is waited for again."""

PROCESSED = text("UPDATE processor_events SET processed_at = now() WHERE id = :id")
IS_UNCREDITED = "state = 'paid' AND entry_id IS NULL AND settled_at IS NULL AND returned < amount"
UNCREDITED = text(
    f"SELECT * FROM payments WHERE {IS_UNCREDITED} ORDER BY created_at, id LIMIT :limit"  # noqa: S608 - a constant
)
ONE_UNCREDITED = text(
    f"SELECT EXISTS (SELECT 1 FROM payments WHERE id = :id AND {IS_UNCREDITED})"  # noqa: S608 - a constant
)
FLAGS = text(
    "SELECT entry_id::text AS entry_id, account_id::text AS account_id, amount, reason, flagged_at"
    " FROM account_flags ORDER BY flagged_at DESC, entry_id DESC LIMIT :limit"
)


class PostgresOrders:
    """The `Orders` and `Customers` ports."""

    def __init__(self, units: PostgresUnits) -> None:
        self._units = units

    async def customer(self, account_id: str) -> Customer | None:
        """Account and customer in one row."""
        async with self._units.unit() as connection:
            row = (await connection.execute(CUSTOMER, {"account": account_id})).first()
        return None if row is None else Customer(account_id, row.email, row.customer)

    async def remember(self, account_id: str, id: str, instead_of: str | None = None) -> str:
        """The first stays, unless it is the one to be replaced."""
        values = {"account": account_id, "customer": id, "instead_of": instead_of}
        async with self._units.unit() as connection:
            kept = await connection.scalar(REMEMBER, values)
        return str(kept)

    async def open(self, order: Order, customer: str) -> KnownOrder | None:
        """Once."""
        async with self._units.unit() as connection:
            if await insert_order(connection, order, customer):
                return None
            row = (await connection.execute(BY_ID, {"id": order.id})).one()
        return _known(row)

    async def attach(self, order_id: str, checkout: Checkout) -> None:
        """To the order."""
        values = {"id": order_id, "checkout": checkout.id, "url": checkout.url}
        async with self._units.unit() as connection:
            await connection.execute(ATTACH, {**values, "expires_at": checkout.expires_at})

    async def order(self, order_id: str) -> KnownOrder | None:
        """By primary key."""
        async with self._units.unit() as connection:
            row = (await connection.execute(BY_ID, {"id": order_id})).first()
        return None if row is None else _known(row)

    async def close(self, order_id: str, state: OrderState, message: str) -> None:
        """If it waits."""
        values = {"id": order_id, "state": state.value, "message": message}
        async with self._units.unit() as connection:
            await connection.execute(CLOSE, values)

    async def take_waiting(self, limit: int) -> Sequence[KnownOrder]:
        """To the end of the row; those that another takes at the same time are left to it."""
        async with self._units.unit() as connection:
            rows = (await connection.execute(TAKE, {"limit": limit})).all()
        return [_known(row) for row in rows]

    async def book(self, ruling: Ruling, event_id: str | None = None) -> Booked:
        """One transaction; a constraint that it breaks is the other payment's answer."""
        try:
            async with self._units.unit() as connection:
                return await _book(connection, ruling, event_id)
        except IntegrityError as error:
            if "payments_one_credit" in str(error.orig):
                raise NotBooked("another payment has credited the order") from error
            raise

    async def uncredited(self, limit: int = 100) -> Sequence[Uncredited]:
        """By the index of exactly these."""
        async with self._units.unit() as connection:
            rows = (await connection.execute(UNCREDITED, {"limit": limit})).all()
        return [Uncredited(_payment(row), row.refusal, Usd(row.returned)) for row in rows]

    async def is_uncredited(self, payment_id: str) -> bool:
        """By primary key."""
        async with self._units.unit() as connection:
            return bool(await connection.scalar(ONE_UNCREDITED, {"id": payment_id}))

    async def flags(self, limit: int = 100) -> Sequence[Flag]:
        """Newest first."""
        async with self._units.unit() as connection:
            rows = (await connection.execute(FLAGS, {"limit": limit})).all()
        return [
            Flag(
                _hex(row.entry_id),
                _hex(row.account_id),
                Usd(row.amount),
                row.reason,
                row.flagged_at.astimezone(UTC),
            )
            for row in rows
        ]


async def insert_order(connection: AsyncConnection, order: Order, customer: str) -> bool:
    """Keep a new order in a transaction that has more in it; False if its id is known."""
    values = {
        "id": order.id,
        "account": order.account_id,
        "customer": customer,
        "amount": order.amount,
        "source": order.source.value,
        "created_at": order.created_at,
    }
    return (await connection.execute(OPEN, values)).rowcount == 1


async def _book(connection: AsyncConnection, ruling: Ruling, event_id: str | None) -> Booked:
    payment = ruling.payment
    kept = {name: value for name, value in asdict(payment).items() if name not in UNKEPT}
    refused = await connection.scalar(KEEP_PAYMENT, {**kept, "state": payment.state.value})
    outcomes = [(posting, await _post(connection, payment, posting)) for posting in ruling.postings]
    stopped = await _stop_top_ups(connection, payment.account_id, outcomes)
    marks = {
        "id": payment.id,
        "returned": returned(payment),
        "entry": ruling.postings[0].id if ruling.postings else None,
        "refusal": ruling.refusal,
    }
    refusal = await connection.scalar(MARK_PAYMENT, marks)
    if ruling.order_id is not None:
        await connection.execute(
            ADVANCE,
            {
                "id": ruling.order_id,
                "state": ruling.state.value,
                "payment": payment.id,
                "message": ruling.message,
                "action_url": payment.action_url,
            },
        )
    if event_id is not None:
        await connection.execute(PROCESSED, {"id": event_id})
    return Booked(tuple(outcomes), bool(refusal) and refusal != refused, stopped)


UNKEPT = frozenset({"reversals", "message", "action_url"})
"""Of a payment: the processor remembers these."""


async def _post(connection: AsyncConnection, payment: Payment, posting: Posting) -> Outcome:
    about = posting.corrects or ""
    if posting.kind is Kind.REVERSAL:
        return await ledger.reverse(connection, posting.id, about, posting.amount, posting.reason)
    if posting.kind is Kind.REINSTATE:
        return await ledger.reinstate(connection, posting.id, about, posting.reason)
    outcome = await ledger.credit(
        connection, posting.id, posting.kind, payment.account_id, posting.amount, posting.reason
    )
    if outcome not in {Outcome.DONE, Outcome.EXISTS}:
        raise NotBooked(f"entry {posting.id}: {outcome}")
    return outcome


async def _stop_top_ups(
    connection: AsyncConnection, account_id: str, outcomes: Sequence[tuple[Posting, Outcome]]
) -> frozenset[str]:
    """By the rule; the account's balance is locked by now, and its setting comes after that."""
    if not any(posting.kind is Kind.REVERSAL for posting, _ in outcomes):
        return frozenset()
    before = await setting_of(connection, account_id, lock=True)
    if before is None:
        return frozenset()
    setting, stopped = after_reversals(before, outcomes)
    if setting.revision != before.revision:
        await put_setting(connection, setting)
    return stopped


class PostgresNotices:
    """The `Notices` port."""

    def __init__(self, units: PostgresUnits) -> None:
        self._units = units

    async def keep(self, event: Event) -> bool:
        """Once."""
        async with self._units.unit() as connection:
            await connection.execute(
                text(
                    "INSERT INTO processor_events (id, kind, payment_id, checkout_id, created_at)"
                    " VALUES (:id, :kind, :payment_id, :checkout_id, :created_at)"
                    " ON CONFLICT DO NOTHING"
                ),
                asdict(event),
            )
            return bool(
                await connection.scalar(
                    text("SELECT processed_at IS NULL FROM processor_events WHERE id = :id"),
                    {"id": event.id},
                )
            )

    async def waiting(self, limit: int = 200) -> Sequence[Event]:
        """In the order of arrival."""
        query = text(
            "SELECT * FROM processor_events WHERE processed_at IS NULL"
            " ORDER BY received_at, id LIMIT :limit"
        )
        async with self._units.unit() as connection:
            rows = (await connection.execute(query, {"limit": limit})).all()
        return [
            Event(row.id, row.kind, row.payment_id, row.checkout_id, row.created_at.astimezone(UTC))
            for row in rows
        ]

    async def done(self, event_id: str) -> None:
        """Mark it."""
        async with self._units.unit() as connection:
            await connection.execute(PROCESSED, {"id": event_id})

    async def last_round(self) -> datetime | None:
        """When it began."""
        async with self._units.unit() as connection:
            found = await connection.scalar(text("SELECT started_at FROM reconciliations"))
        return None if found is None else found.astimezone(UTC)

    async def round_ended(self, started_at: datetime) -> None:
        """Never back."""
        async with self._units.unit() as connection:
            await connection.execute(
                text(
                    "INSERT INTO reconciliations (started_at) VALUES (:at) ON CONFLICT (one)"
                    " DO UPDATE SET started_at = greatest(reconciliations.started_at, :at)"
                ),
                {"at": started_at},
            )


def _known(row: Any) -> KnownOrder:
    checkout = None
    if row.checkout_id is not None:
        checkout = Checkout(row.checkout_id, row.checkout_url, row.expires_at.astimezone(UTC))
    return KnownOrder(
        Order(
            _hex(row.id),
            _hex(row.account_id),
            Usd(row.amount),
            Source(row.source),
            row.created_at.astimezone(UTC),
        ),
        row.customer,
        OrderState(row.state),
        checkout,
        row.payment_id,
        row.message,
        row.action_url,
    )


def _payment(row: Any) -> Payment:
    return Payment(
        id=row.id,
        order_id=row.order_id,
        account_id=row.account_id,
        customer=row.customer,
        amount=Usd(row.amount),
        currency=row.currency,
        state=PaymentState(row.state),
        created_at=row.created_at.astimezone(UTC),
        tax=Usd(row.tax),
        card=row.card,
        receipt_url=row.receipt_url,
        invoice_url=row.invoice_url,
    )


def _hex(id: str) -> str:
    return id.replace("-", "")
