"""The arq worker: work that has a time of its own. `python -m adapters.workers.worker`."""

from __future__ import annotations

from typing import Any, cast

import structlog
from arq import Worker, cron, func
from arq.connections import RedisSettings
from arq.cron import CronJob
from arq.typing import StartupShutdown, WorkerCoroutine

from adapters import log as logs
from adapters.container import Container
from adapters.settings import Settings
from adapters.workers.queue import DELIVER_MAIL, QUEUE
from kyma.mail import State
from kyma.ports.payments import ProcessorUnavailable
from kyma.ports.storage import StorageUnavailable

log = structlog.get_logger("kyma.worker")

MAX_ROUNDS = 100

KEEP_MAIL_DAYS = 30
"""How long an address stays in a mail that has ended."""


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
    await context["container"].mails().erase(KEEP_MAIL_DAYS)
    await context["container"].device_codes().tidy()
    await context["container"].authorization_codes().tidy()
    await context["container"].link_rows().tidy()


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


async def deliver_mail(context: dict[str, Any]) -> None:
    """Carry the letters that are due; say which kinds of end there were, never to whom."""
    done = await context["container"].delivery().round()
    if done:
        bad = {State.GIVEN_UP, State.UNKNOWN} & done.keys()
        tell = log.error if bad else log.info
        tell("mail_delivered", **{state.value: count for state, count in done.items()})


async def tell_answers(context: dict[str, Any]) -> None:
    """Post letters about answered requests that were not posted with the answer."""
    await context["container"].higher_limits().tell()


async def reward(context: dict[str, Any]) -> None:
    """Count what referred accounts consumed, and reward both sides where it is enough."""
    done = await context["container"].rewards().run()
    if done.paid:
        log.info("referrals_rewarded", count=done.paid)
    if done.stuck:
        log.error("referrals_stuck", referrals=done.stuck)


async def reconcile(context: dict[str, Any]) -> None:
    """Ask the payment processor for everything since the last round. One round at a time."""
    if context.get("reconciling"):
        return  # a long one, after a long silence
    context["reconciling"] = True
    try:
        looked_at = await context["container"].credit_sales().reconcile()
    except (ProcessorUnavailable, StorageUnavailable) as error:
        log.warning("round_put_off", error=str(error))
    else:
        log.debug("payments_looked_at", count=looked_at)
    finally:
        context["reconciling"] = False


async def top_up(context: dict[str, Any]) -> None:
    """Charge saved cards of accounts whose balance has crossed their threshold."""
    if context.get("topping_up"):
        return  # somebody's bank takes its time
    context["topping_up"] = True
    try:
        begun = await context["container"].auto_top_ups().run()
    finally:
        context["topping_up"] = False
    if begun:
        log.info("topped_up", count=begun)


async def tell_low(context: dict[str, Any]) -> None:
    """Write to customers whose balance has become low."""
    await context["container"].low_balances().run()


async def beat(context: dict[str, Any]) -> None:
    """Say that a worker is alive."""
    await context["container"].pulse().beat()


async def _start(context: dict[str, Any]) -> None:
    context["container"] = Container(settings=context["settings"])
    context["container"].carrier()  # a sender that is no address is said now, not at the first mail


async def _stop(context: dict[str, Any]) -> None:
    container = context["container"]
    await container.delivery().drained()
    await container.ledger().close()
    await container.transport().close()
    if container.settings().bills:
        await container.processor().close()
    await container.redis().aclose()
    await container.units().close()


def _every(work: Any, **when: Any) -> CronJob:
    return cron(cast(WorkerCoroutine, work), keep_result=0, max_tries=1, unique=True, **when)


SALES_S = 1800.0
"""How long a round may take: after days of silence it looks at every payment since."""


def sales_jobs() -> list[CronJob]:
    """What a worker does where credit is sold."""
    return [
        _every(reconcile, minute=set(range(0, 60, 3)), second=10, timeout=SALES_S),
        _every(top_up, second=set(range(3, 60, 5)), timeout=SALES_S),
        _every(tell_low, second=25),
    ]


def main() -> None:
    """Run until told to stop; exits when Redis goes away, and the supervisor starts it again."""
    settings = Settings()
    logs.configure(settings.log_level)
    tens = set(range(0, 60, 10))
    worker = Worker(
        functions=[
            func(cast(WorkerCoroutine, deliver_mail), name=DELIVER_MAIL, keep_result=0, max_tries=1)
        ],
        cron_jobs=[
            _every(sweep, second=set(range(0, 60, 5))),
            _every(audit, minute=tens, second=30),
            _every(tidy, minute=tens, second=0),
            _every(beat, second=set(range(2, 60, 5)), run_at_startup=True),
            _every(probe, minute=set(range(0, 60, 5)), second=15, run_at_startup=True),
            _every(close_hours, second=45),
            _every(forget, second=20),
            _every(deliver_mail, second=set(range(4, 60, 10))),
            _every(tell_answers, second=35),
            _every(reward, minute=tens, second=50),
            *(sales_jobs() if settings.bills else []),
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
