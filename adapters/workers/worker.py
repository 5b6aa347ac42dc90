"""The arq worker: work that has a time of its own. `python -m adapters.workers.worker`."""

from __future__ import annotations

from typing import Any, cast

import structlog
from arq import Worker, cron
from arq.connections import RedisSettings
from arq.cron import CronJob
from arq.typing import StartupShutdown, WorkerCoroutine

from adapters import log as logs
from adapters.container import Container
from adapters.settings import Settings

log = structlog.get_logger("kyma.worker")

QUEUE = "kyma:queue"
MAX_ROUNDS = 100


async def sweep(context: dict[str, Any]) -> int:
    """Return every overdue hold to its customer."""
    ledger = context["container"].ledger()
    total = 0
    for _ in range(MAX_ROUNDS):
        swept = await ledger.sweep()
        total += swept
        if not swept:
            break
    if total:
        log.warning("holds_expired", count=total)
    return total


async def audit(context: dict[str, Any]) -> None:
    """Compare every balance with the replay of its entries, and say so if they differ."""
    health = await context["container"].ledger().health()
    if not health.sound:
        log.error(
            "ledger_unsound",
            sum_of_all_books=health.sum_of_all_books,
            balances_off=health.balances_off,
            holds_off=health.holds_off,
        )


async def tidy(context: dict[str, Any]) -> None:
    """Forget what nobody asks for any more."""
    await context["container"].accounts().tidy()
    await context["container"].probes().tidy()


async def probe(context: dict[str, Any]) -> None:
    """Ask every provider whether it answers, and remember what it said."""
    container = context["container"]
    await container.probes().add(await container.prober().ask())


async def close_hours(context: dict[str, Any]) -> int:
    """Sum up the usage records of hours that are over, for the public figures."""
    closed: int = await context["container"].reports().close_hours()
    return closed


async def forget(context: dict[str, Any]) -> None:
    """Delete kept answers when their minutes are over, and claims when their day is."""
    claims = context["container"].claims()
    for _ in range(MAX_ROUNDS):
        if not await claims.tidy():
            break


async def beat(context: dict[str, Any]) -> None:
    """Say that a worker is alive."""
    await context["container"].pulse().beat()


async def _start(context: dict[str, Any]) -> None:
    context["container"] = Container(settings=context["settings"])


async def _stop(context: dict[str, Any]) -> None:
    container = context["container"]
    await container.ledger().close()
    await container.transport().close()
    await container.redis().aclose()
    await container.units().close()


def _every(work: Any, **when: Any) -> CronJob:
    return cron(cast(WorkerCoroutine, work), keep_result=0, max_tries=1, unique=True, **when)


def main() -> None:
    """Run until told to stop; exits when Redis goes away, and the supervisor starts it again."""
    settings = Settings()
    logs.configure(settings.log_level)
    tens = set(range(0, 60, 10))
    worker = Worker(
        cron_jobs=[
            _every(sweep, second=set(range(0, 60, 5))),
            _every(audit, minute=tens, second=30),
            _every(tidy, minute=tens, second=0),
            _every(beat, second=set(range(2, 60, 5)), run_at_startup=True),
            _every(probe, minute=set(range(0, 60, 5)), second=15, run_at_startup=True),
            _every(close_hours, second=45),
            _every(forget, second=20),
        ],
        redis_settings=RedisSettings.from_dsn(settings.redis_url),
        queue_name=QUEUE,
        ctx={"settings": settings},
        on_startup=cast(StartupShutdown, _start),
        on_shutdown=cast(StartupShutdown, _stop),
        job_timeout=60,
        keep_result=0,
    )
    worker.run()


if __name__ == "__main__":
    main()
