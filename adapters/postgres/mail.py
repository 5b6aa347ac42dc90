"""The outbox on Postgres: one row per letter, its claim the fence."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from datetime import UTC
from typing import Any

from sqlalchemy import TextClause, text

from adapters.postgres.units import PostgresUnits
from kyma.mail import Claimed, Letter, Mail, State, Trouble

POST = text(
    """
    INSERT INTO mails (id, letter, recipient, facts)
    VALUES (:id, :letter, :to, CAST(:facts AS jsonb))
    ON CONFLICT (id) DO NOTHING
    """
)
CLAIM = text(
    """
    UPDATE mails SET state = 'sending', claim = :claim, tries = tries + 1,
                     due_at = now() + make_interval(secs => :lease)
    WHERE id = (
        SELECT id FROM mails WHERE state = 'waiting' AND due_at <= now()
        ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING id, letter, recipient, facts::text AS facts, tries, posted_at
    """
)
SENT = text(
    """
    UPDATE mails SET state = 'sent', error = '', ended_at = now(), facts = harmless_facts(facts)
    WHERE id = :id AND claim = :claim AND state <> 'sent'
    """
)
"""Even of a letter that was lost sight of meanwhile, as long as nobody else has claimed it."""

PUT_OFF = text(
    """
    UPDATE mails SET state = 'waiting', due_at = now() + make_interval(secs => :delay),
                     error = :error
    WHERE id = :id AND claim = :claim AND state = 'sending'
    """
)
END = text(
    """
    UPDATE mails SET state = :state, error = :error, ended_at = now(), facts = harmless_facts(facts)
    WHERE id = :id AND claim = :claim AND state = 'sending'
    """
)
LAPSE = text(
    """
    UPDATE mails SET state = 'unknown', error = :error, ended_at = now(),
                     facts = harmless_facts(facts)
    WHERE state = 'sending' AND due_at <= now()
    """
)
TROUBLED = text(
    """
    SELECT id, letter, recipient, state, tries, error, ended_at FROM mails
    WHERE state IN ('unknown', 'given_up') ORDER BY ended_at DESC, id LIMIT :limit
    """
)
PUT_BACK = text(
    """
    WITH old AS (
        SELECT id, state, tries, error FROM mails
        WHERE id = :id AND state IN ('unknown', 'given_up') AND recipient <> ''
              AND letter = ANY (:letters)
        FOR UPDATE
    ), noted AS (
        INSERT INTO mails_put_back (mail_id, operator, reason, was, tries, error)
        SELECT id, :operator, :reason, state, tries, error FROM old
    )
    UPDATE mails SET state = 'waiting', due_at = now(), ended_at = NULL, error = '', tries = 1
    FROM old WHERE mails.id = old.id
    """
)
"""Its claim stays, and with it one try, so that a late word of the last one is understood."""

ERASE = text(
    """
    UPDATE mails SET recipient = '', facts = '{}' WHERE id = ANY (ARRAY(
        SELECT id FROM mails
        WHERE recipient <> '' AND ended_at < now() - make_interval(days => :days) LIMIT :limit))
    """
)
LOST_SIGHT = "the worker did not say how it ended"
MAX_ERROR = 500


class PostgresMails:
    """The `Outbox` and `Mails` ports."""

    def __init__(self, units: PostgresUnits) -> None:
        self._units = units

    async def post(self, mail: Mail) -> bool:
        """The primary key decides whether it is new."""
        values = {
            "id": mail.id,
            "letter": mail.letter.value,
            "to": mail.to,
            "facts": json.dumps(dict(mail.facts)),
        }
        return await self._count(POST, values) == 1

    async def claim(self, claim: str, lease_s: int) -> Claimed | None:
        """Rows that another claims at this moment are passed over."""
        async with self._units.unit() as connection:
            row = (await connection.execute(CLAIM, {"claim": claim, "lease": lease_s})).first()
        return None if row is None else _claimed(row, claim)

    async def sent(self, id: str, claim: str) -> bool:
        """Once."""
        return await self._count(SENT, {"id": id, "claim": claim}) == 1

    async def put_off(self, id: str, claim: str, delay_s: int, error: str) -> bool:
        """Only one's own."""
        values = {"id": id, "claim": claim, "delay": delay_s, "error": error[:MAX_ERROR]}
        return await self._count(PUT_OFF, values) == 1

    async def end(self, id: str, claim: str, state: State, error: str) -> bool:
        """Only one's own."""
        values = {"id": id, "claim": claim, "state": state.value, "error": error[:MAX_ERROR]}
        return await self._count(END, values) == 1

    async def lapse(self) -> int:
        """By the database's clock."""
        return await self._count(LAPSE, {"error": LOST_SIGHT})

    async def troubled(self, limit: int = 100) -> Sequence[Trouble]:
        """Newest first."""
        async with self._units.unit() as connection:
            rows = (await connection.execute(TROUBLED, {"limit": limit})).all()
        return [_trouble(row) for row in rows]

    async def put_back(
        self, id: str, letters: Collection[Letter], operator: str, reason: str
    ) -> bool:
        """The letter and the note in one statement."""
        named = [letter.value for letter in letters]
        values = {"id": id, "letters": named, "operator": operator, "reason": reason}
        return await self._count(PUT_BACK, values) == 1

    async def erase(self, after_days: int, limit: int = 5000) -> int:
        """The id stays: it is what keeps the letter from being sent anew."""
        return await self._count(ERASE, {"days": after_days, "limit": limit})

    async def _count(self, statement: TextClause, values: dict[str, Any]) -> int:
        async with self._units.unit() as connection:
            return (await connection.execute(statement, values)).rowcount


def _claimed(row: Any, claim: str) -> Claimed:
    mail = Mail(row.id, row.recipient, Letter(row.letter), json.loads(row.facts))
    return Claimed(mail, claim, row.tries, row.posted_at.astimezone(UTC))


def _trouble(row: Any) -> Trouble:
    return Trouble(
        row.id,
        Letter(row.letter),
        row.recipient,
        State(row.state),
        row.tries,
        row.error,
        row.ended_at.astimezone(UTC),
    )
