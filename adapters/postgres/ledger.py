"""The ledger on Postgres, with group commit.

Holds and resolutions that arrive while a batch is being written form the next batch: one
call of `ledger_apply`, one transaction, each caller with an answer of its own. There is no
timer: an idle ledger writes at once, a busy one writes many together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from adapters.postgres.units import UNREACHABLE, PostgresUnits, connect
from kyma.ledger import Balance, Hold, Kind, LedgerHealth, Outcome, Resolution, check_amount
from kyma.money import Usd
from kyma.ports.storage import Held, Resolved, StorageUnavailable
from kyma.usage import UsageRecord

MAX_BATCH = 256
"""Operations in one transaction; bounds how long its locks are held."""

MAX_QUEUE = 20_000
"""Operations waiting; beyond it callers are refused at once instead of waiting in vain."""

APPLY_S = 6.0
REPLAY_S = 55.0

AWAY = (StorageUnavailable, *UNREACHABLE)
BLOCKED = (asyncpg.LockNotAvailableError, asyncpg.QueryCanceledError)
"""Perhaps one account's row is locked by somebody else: the others need not suffer for it."""

OUTCOMES = {outcome.value: outcome for outcome in Outcome}

APPLY = (
    "SELECT * FROM ledger_apply($1::text::text[], $2::text::uuid[], $3::text::uuid[],"
    " $4::text::bigint[], $5::text::bigint[], $6::text::int[], $7, $8::text::uuid[])"
)
"""Arrays go as text: the driver would ask each of their elements whether it is an array, too."""


@dataclass(slots=True)
class _Operation:
    """One hold or resolution on its way into a batch."""

    kind: Kind
    hold_id: str
    account_id: str | None
    amount: int
    cost: int
    ttl_s: int
    record: dict[str, Any] | None
    done: asyncio.Future[Any]
    key_id: str | None = None

    def is_granted_hold(self) -> bool:
        """Whether credit was held and said so."""
        if self.kind is not Kind.HOLD or not self.done.done() or self.done.cancelled():
            return False
        return self.done.exception() is None and self.done.result()["outcome"] == Outcome.DONE


class Batcher:
    """Owns one connection of the pool and writes whatever has queued up, again and again."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._waiting: list[_Operation] = []
        self._writer: asyncio.Task[None] | None = None
        self._connection: AsyncConnection | None = None
        self._driver: Any = None

    async def write(self, operation: _Operation) -> Any:
        """Queue an operation and wait for its row of the answer."""
        if len(self._waiting) >= MAX_QUEUE:
            raise StorageUnavailable("the ledger's queue is full")
        self._queue(operation)
        try:
            return await operation.done
        except asyncio.CancelledError:
            # The answer may have come in the very turn in which its caller was cancelled.
            if operation.is_granted_hold():
                self._return(operation)
            raise

    def _queue(self, operation: _Operation) -> None:
        self._waiting.append(operation)
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        try:
            while self._waiting:
                batch = self._next_batch()
                try:
                    rows = await self._apply(batch)
                except AWAY as error:
                    await self._drop_connection()
                    if isinstance(error, BLOCKED) and len(batch) > 1:
                        await self._one_by_one(batch)
                    else:
                        _fail(batch, StorageUnavailable(f"{type(error).__name__}: {error}"))
                except Exception as error:  # noqa: BLE001 - every waiter must get an answer
                    await self._drop_connection()
                    if len(batch) == 1:
                        _fail(batch, error)
                    else:
                        await self._one_by_one(batch)
                else:
                    self._answer(batch, rows)
        finally:
            self._writer = None

    async def _one_by_one(self, batch: Sequence[_Operation]) -> None:
        """After a batch was refused or blocked: find the one to blame, spare the others."""
        for operation in batch:
            try:
                self._answer([operation], await self._apply([operation]))
            except AWAY as error:
                await self._drop_connection()
                _fail([operation], StorageUnavailable(f"{type(error).__name__}: {error}"))
            except Exception as error:  # noqa: BLE001 - raised again to the waiter
                await self._drop_connection()
                _fail([operation], error)

    def _next_batch(self) -> list[_Operation]:
        """The next operations, resolutions first (they free credit), no hold id twice."""
        taken: list[_Operation] = []
        left: list[_Operation] = []
        ids: set[str] = set()
        for operation in self._waiting:
            if len(taken) < MAX_BATCH and operation.hold_id not in ids:
                ids.add(operation.hold_id)
                taken.append(operation)
            else:
                left.append(operation)
        self._waiting = left
        taken.sort(key=lambda operation: operation.kind is Kind.HOLD)
        return taken

    async def _apply(self, batch: Sequence[_Operation]) -> Sequence[asyncpg.Record]:
        if self._driver is None:
            self._connection = await connect(self._engine)
            raw = await self._connection.get_raw_connection()
            self._driver = raw.driver_connection
        kinds, holds, accounts, amounts, costs, ttls, records, keys = zip(
            *[
                (o.kind, o.hold_id, o.account_id, o.amount, o.cost, o.ttl_s, o.record, o.key_id)
                for o in batch
            ],
            strict=True,
        )
        told = [record for record in records if record is not None]
        rows: Sequence[asyncpg.Record] = await self._driver.fetch(
            APPLY,
            _array(kinds),
            _array(holds),
            _array(accounts),
            _array(amounts),
            _array(costs),
            _array(ttls),
            orjson.dumps(told).decode() if told else None,
            _array(keys),
            timeout=APPLY_S,
        )
        return rows

    def _answer(self, batch: Sequence[_Operation], rows: Sequence[asyncpg.Record]) -> None:
        for row in rows:
            operation = batch[row["ord"] - 1]
            if not operation.done.done():
                operation.done.set_result(row)
            elif operation.kind is Kind.HOLD and row["outcome"] == Outcome.DONE:
                self._return(operation)

    def _return(self, hold: _Operation) -> None:
        """Whoever wanted this hold is gone: nobody is left to end it."""
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        done.add_done_callback(lambda task: task.cancelled() or task.exception())
        self._queue(_Operation(Kind.REFUND, hold.hold_id, None, 0, 0, 0, None, done))

    async def _drop_connection(self) -> None:
        connection, self._connection, self._driver = self._connection, None, None
        if connection is not None:
            await connection.invalidate()
            await connection.close()

    async def close(self) -> None:
        """Write what is queued, then give the connection back."""
        while self._writer is not None:
            await asyncio.wait([self._writer])
        connection, self._connection, self._driver = self._connection, None, None
        if connection is not None:
            await connection.close()


def _array(values: tuple[str | int | None, ...]) -> str:
    """As PostgreSQL writes words, numbers and nulls in an array: like JSON, in other brackets."""
    return "{" + orjson.dumps(values)[1:-1].decode() + "}"


def _fail(batch: Sequence[_Operation], error: Exception) -> None:
    for operation in batch:
        if not operation.done.done():
            operation.done.set_exception(error)


class PostgresLedger:
    """The `Ledger` port on Postgres."""

    def __init__(self, engine: AsyncEngine, units: PostgresUnits) -> None:
        self._batcher = Batcher(engine)
        self._units = units

    async def hold(
        self, id: str, account_id: str, amount: Usd, ttl_s: int, key_id: str = ""
    ) -> Held:
        """Reserve; see the port."""
        row = await self._batcher.write(
            _Operation(
                Kind.HOLD,
                id,
                account_id,
                amount,
                0,
                ttl_s,
                None,
                asyncio.get_running_loop().create_future(),
                key_id or None,
            )
        )
        outcome = OUTCOMES[row["outcome"]]
        available = Usd(row["available"])
        if outcome is Outcome.CAPPED:
            return Held(outcome, None, available, Usd(row["settled"]))
        if outcome not in {Outcome.DONE, Outcome.EXISTS}:
            return Held(outcome, None, available)
        return Held(outcome, Hold(id, account_id, Usd(row["paid"]), Usd(row["promo"])), available)

    async def resolve(self, how: Resolution, record: UsageRecord | None = None) -> Resolved:
        """End a hold; see the port."""
        row = await self._batcher.write(
            _Operation(
                how.kind,
                how.hold_id,
                None,
                how.bill,
                how.cost,
                0,
                None if record is None else _row_of(record),
                asyncio.get_running_loop().create_future(),
            )
        )
        return Resolved(OUTCOMES[row["outcome"]], Usd(row["settled"]), Usd(row["available"]))

    async def deposit(self, id: str, account_id: str, amount: Usd, reason: str) -> Outcome:
        """Book paid-in credit."""
        return await self._credit(id, Kind.DEPOSIT, account_id, amount, reason, "")

    async def grant(
        self, id: str, account_id: str, amount: Usd, reason: str, actor: str = ""
    ) -> Outcome:
        """Book given credit."""
        return await self._credit(id, Kind.GRANT, account_id, amount, reason, actor)

    async def _credit(
        self, id: str, kind: Kind, account_id: str, amount: Usd, reason: str, actor: str
    ) -> Outcome:
        check_amount(amount)
        async with self._units.unit() as connection:
            return await credit(connection, id, kind, account_id, amount, reason, actor)

    async def reverse(self, id: str, deposit_id: str, amount: Usd, reason: str) -> Outcome:
        """The `Reversals` port: back to the processor what a deposit brought."""
        check_amount(amount)
        async with self._units.unit() as connection:
            return await reverse(connection, id, deposit_id, amount, reason)

    async def reinstate(self, id: str, reversal_id: str, reason: str) -> Outcome:
        """The `Reversals` port: undo a reversal, once."""
        async with self._units.unit() as connection:
            return await reinstate(connection, id, reversal_id, reason)

    async def balance(self, account_id: str) -> Balance:
        """The projection, which every booking keeps."""
        async with self._units.unit() as connection:
            row = (
                await connection.execute(
                    text(
                        "SELECT paid, promo, held_paid, held_promo, deposited"
                        " FROM balances WHERE account_id = :id"
                    ),
                    {"id": account_id},
                )
            ).first()
        return Balance() if row is None else Balance(*(Usd(amount) for amount in row))

    async def sweep(self, limit: int = 500) -> int:
        """Expire overdue holds."""
        async with self._units.unit() as connection:
            return int(await connection.scalar(text("SELECT ledger_sweep(:n)"), {"n": limit}) or 0)

    async def health(self) -> LedgerHealth:
        """Replay everything; reads one snapshot."""
        async with self._units.unit(REPLAY_S) as connection:
            row = (await connection.execute(text(HEALTH))).one()
        return LedgerHealth(
            entries=row.entries,
            sum_of_all_books=int(row.total),
            balances_off=row.balances_off,
            holds_off=row.holds_off,
            open_holds=row.open_holds,
            oldest_open_hold_s=float(row.oldest_s),
            revenue=Usd(int(row.revenue)),
            provider_cost=Usd(-int(row.provider_cost)),
            loss=Usd(-int(row.loss)),
        )

    async def close(self) -> None:
        """Finish what is queued."""
        await self._batcher.close()


async def credit(
    connection: AsyncConnection,
    id: str,
    kind: Kind,
    account_id: str,
    amount: Usd,
    reason: str,
    actor: str = "",
) -> Outcome:
    """Book a deposit or a grant in a transaction that has more in it."""
    answer = await connection.scalar(
        text("SELECT ledger_credit(:id, :kind, :account, :amount, :reason, :actor)"),
        {
            "id": id,
            "kind": kind.value,
            "account": account_id,
            "amount": amount,
            "reason": reason,
            "actor": actor,
        },
    )
    return Outcome(answer)


async def reverse(
    connection: AsyncConnection, id: str, deposit_id: str, amount: Usd, reason: str
) -> Outcome:
    """Reverse a deposit in a transaction that has more in it."""
    answer = await connection.scalar(
        text("SELECT ledger_reverse(:id, :deposit, :amount, :reason)"),
        {"id": id, "deposit": deposit_id, "amount": amount, "reason": reason},
    )
    return Outcome(answer)


async def reinstate(connection: AsyncConnection, id: str, reversal_id: str, reason: str) -> Outcome:
    """Undo a reversal in a transaction that has more in it."""
    answer = await connection.scalar(
        text("SELECT ledger_reinstate(:id, :reversal, :reason)"),
        {"id": id, "reversal": reversal_id, "reason": reason},
    )
    return Outcome(answer)


HEALTH = """
WITH replay AS (
    SELECT account_id, sum(paid) AS paid, sum(promo) AS promo, sum(held_paid) AS held_paid,
           sum(held_promo) AS held_promo,
           sum(excess - processor) FILTER (
               WHERE kind IN ('deposit', 'reversal', 'reinstate')) AS deposited
    FROM entries GROUP BY account_id
), held AS (
    SELECT e.hold_id, e.account_id, e.held_paid, e.held_promo FROM entries e
    WHERE e.kind = 'hold' AND NOT EXISTS (
        SELECT 1 FROM entries r
        WHERE r.hold_id = e.hold_id AND r.kind IN ('settle', 'refund', 'expire'))
), reserved AS (
    SELECT account_id, sum(paid) AS paid, sum(promo) AS promo FROM open_holds GROUP BY account_id
), books AS (
    SELECT count(*) AS entries, coalesce(sum(revenue), 0) AS revenue,
           coalesce(sum(provider_cost), 0) AS provider_cost, coalesce(sum(loss), 0) AS loss,
           coalesce(sum(paid + promo + held_paid + held_promo + revenue + provider_cost
                        + processor + promo_fund + loss), 0) AS total
    FROM entries
)
SELECT books.*,
    (SELECT count(*) FROM balances b FULL JOIN replay r USING (account_id)
     WHERE (coalesce(b.paid, 0), coalesce(b.promo, 0), coalesce(b.held_paid, 0),
            coalesce(b.held_promo, 0), coalesce(b.deposited, 0))
        IS DISTINCT FROM
           (coalesce(r.paid, 0), coalesce(r.promo, 0), coalesce(r.held_paid, 0),
            coalesce(r.held_promo, 0), coalesce(r.deposited, 0))) AS balances_off,
    -- A reversal may have taken of a hold: it is never more than its entry said.
    (SELECT count(*) FROM open_holds o FULL JOIN held h USING (hold_id)
     WHERE (o.account_id, o.promo) IS DISTINCT FROM (h.account_id, h.held_promo)
        OR o.paid > h.held_paid)
    + (SELECT count(*) FROM balances b FULL JOIN reserved r USING (account_id)
       WHERE (coalesce(b.held_paid, 0), coalesce(b.held_promo, 0))
          IS DISTINCT FROM (coalesce(r.paid, 0), coalesce(r.promo, 0))) AS holds_off,
    (SELECT count(*) FROM open_holds) AS open_holds,
    coalesce((SELECT extract(epoch FROM now() - min(e.created_at))
              FROM open_holds o JOIN entries e ON e.id = o.hold_id), 0) AS oldest_s
FROM books
"""


def _row_of(record: UsageRecord) -> dict[str, Any]:
    usage = record.usage
    return {
        "id": record.id,
        "account_id": record.account_id,
        "key_id": record.key_id or None,
        "endpoint": record.endpoint,
        "requested_model": record.requested_model,
        "served_model": record.served_model,
        "provider": record.provider,
        "layer": record.layer,
        "streamed": record.streamed,
        "outcome": record.outcome,
        "input_tokens": usage.input,
        "cache_read_tokens": usage.cache_read,
        "cache_write_tokens": usage.cache_write,
        "output_tokens": usage.output,
        "reasoning_tokens": usage.reasoning,
        "evidence": usage.evidence.value,
        "price_version": record.price_version,
        "cache_discount": record.cache_discount,
        "provider_cost": record.provider_cost,
        "first_byte_ms": record.first_byte_ms,
        "duration_ms": record.duration_ms,
        "attempts": [
            {
                "provider": attempt.provider,
                "upstream_model": attempt.upstream_model,
                "layer": attempt.layer,
                "outcome": attempt.outcome,
                "duration_ms": attempt.duration_ms,
            }
            for attempt in record.attempts
        ],
        "started_at": record.started_at,
    }
