"""Whether providers answered when the worker asked them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import insert, text

from adapters.postgres.tables import provider_probes
from adapters.postgres.units import PostgresUnits
from kyma.traffic import OK, Probe, ProbeCount

KEEP_DAYS = 30
"""Public figures look back on seven."""

TIDY = text("DELETE FROM provider_probes WHERE probed_at < now() - make_interval(days => :days)")

COUNTS = text(
    f"""
    SELECT provider, count(*) AS checks, count(*) FILTER (WHERE outcome = '{OK}') AS answered,
           (array_agg(outcome ORDER BY probed_at DESC, id DESC))[1] AS last_outcome,
           max(probed_at) AS last_at
    FROM provider_probes
    WHERE probed_at >= :since
    GROUP BY provider
    ORDER BY provider COLLATE "C"
    """  # noqa: S608 - the piece is a constant of ours
)


class PostgresProbes:
    """The `Probes` port."""

    def __init__(self, units: PostgresUnits) -> None:
        self._units = units

    async def add(self, probes: Sequence[Probe]) -> None:
        """One row each, by the database's clock."""
        if not probes:
            return
        rows = [
            {
                "provider": probe.provider,
                "outcome": probe.outcome,
                "latency_ms": probe.latency_ms,
            }
            for probe in probes
        ]
        async with self._units.unit() as connection:
            await connection.execute(insert(provider_probes), rows)

    async def counts(self, since: datetime) -> Sequence[ProbeCount]:
        """Read on the index of their times: some thousand rows a week and provider."""
        async with self._units.unit() as connection:
            rows = (await connection.execute(COUNTS, {"since": since})).all()
        return [
            ProbeCount(
                provider=row.provider,
                checks=row.checks,
                answered=row.answered,
                last_outcome=row.last_outcome,
                last_at=row.last_at.astimezone(UTC),
            )
            for row in rows
        ]

    async def tidy(self) -> None:
        """Forget what no figure looks back on."""
        async with self._units.unit() as connection:
            await connection.execute(TIDY, {"days": KEEP_DAYS})
