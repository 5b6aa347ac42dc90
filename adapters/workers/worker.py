"""The arq worker: work that has a time of its own. `python -m adapters.workers.worker`."""

from __future__ import annotations

from typing import Any, cast

import structlog
from arq import cron, run_worker
from arq.connections import RedisSettings
from arq.typing import WorkerCoroutine

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


async def _start(context: dict[str, Any]) -> None:
    context["container"] = Container(settings=context["settings"])


async def _stop(context: dict[str, Any]) -> None:
    container = context["container"]
    await container.ledger().close()
    await container.units().close()


def main() -> None:
    """Run until told to stop; exits when Redis goes away, and the supervisor starts it again."""
    settings = Settings()
    logs.configure(settings.log_level)

    class Work:
        functions: list[Any] = []
        cron_jobs = [
            cron(
                cast(WorkerCoroutine, sweep),
                second=set(range(0, 60, 5)),
                keep_result=0,
                max_tries=1,
            ),
            cron(
                cast(WorkerCoroutine, audit),
                minute=set(range(0, 60, 10)),
                second=30,
                keep_result=0,
                max_tries=1,
            ),
        ]
        redis_settings = RedisSettings.from_dsn(settings.redis_url)
        queue_name = QUEUE
        ctx = {"settings": settings}
        on_startup = _start
        on_shutdown = _stop
        job_timeout = 60
        keep_result = 0

    run_worker(Work)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
