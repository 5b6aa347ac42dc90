"""What the worker does where credit is sold: as it is wired, on Postgres and a Stripe server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio
from sqlalchemy import text

from adapters.container import Container
from adapters.settings import Settings
from adapters.workers.worker import reconcile, sales_jobs, tell_low, top_up
from kyma.ledger import Kind, Resolution
from kyma.money import Usd, usd
from kyma.topups import TopUp
from tests.builders import a_key, a_session, an_account, new_id
from tests.stripe_server.app import Fault
from tests.stripe_server.server import StripeServer, stripe_server


@pytest_asyncio.fixture
async def stripe() -> AsyncIterator[StripeServer]:
    async with stripe_server() as server:
        yield server


@pytest_asyncio.fixture
async def context(
    database_url: str, redis_url: str, stripe: StripeServer
) -> AsyncIterator[dict[str, Any]]:
    """As the worker has it."""
    settings = Settings(
        database_url=database_url,
        redis_url=redis_url,
        key_pepper="test-pepper-" + "0" * 32,
        sandbox="on",
        stripe_secret_key=stripe.secret_key,
        stripe_webhook_secret=stripe.webhook_secret,
        stripe_api_base=stripe.url,
    )
    container = Container(settings=settings)
    yield {"container": container, "settings": settings}
    await container.ledger().close()
    await container.processor().close()
    await container.redis().aclose()
    await container.units().close()


async def an_owner(container: Any) -> str:
    account = an_account()
    await container.accounts().register(account, a_key(account), a_session(account), Usd(0))
    return account.id


async def spend(container: Any, account: str, amount: Usd) -> None:
    hold = new_id()
    await container.ledger().hold(hold, account, amount, 60)
    await container.ledger().resolve(Resolution(hold, Kind.SETTLE, amount))


async def letters(container: Any) -> list[str]:
    async with container.units().unit() as connection:
        rows = await connection.execute(text("SELECT letter FROM mails ORDER BY posted_at"))
        return [row.letter for row in rows]


async def test_a_round_credits_what_was_paid_and_writes_to_the_buyer(
    context: dict[str, Any], stripe: StripeServer
) -> None:
    container = context["container"]
    account = await an_owner(container)
    known = await container.credit_sales().buy(account, usd("20"))
    stripe.pay(known.checkout.id)
    await reconcile(context)
    await reconcile(context)
    assert (await container.ledger().balance(account)).paid == usd("20")
    assert await letters(container) == ["receipt"]
    assert await container.orders().uncredited() == []


async def test_a_round_without_the_processor_is_put_off(
    context: dict[str, Any], stripe: StripeServer
) -> None:
    container = context["container"]
    stripe.fail(Fault.UNAVAILABLE, times=10)
    await reconcile(context)
    assert await container.notices().last_round() is None
    stripe.api.faults.clear()
    await reconcile(context)
    assert await container.notices().last_round() is not None


async def test_a_second_round_does_not_begin_while_one_is_under_way(
    context: dict[str, Any], stripe: StripeServer
) -> None:
    context["reconciling"] = context["topping_up"] = True
    await reconcile(context)
    await top_up(context)
    assert stripe.asked == []


async def test_a_card_is_charged_when_the_balance_has_crossed_its_threshold(
    context: dict[str, Any], stripe: StripeServer
) -> None:
    container = context["container"]
    account = await an_owner(container)
    _, customer = await container.till().customer(account)
    stripe.card(customer)
    setting = TopUp(account, True, usd("5"), usd("20"), usd("100"))
    await container.auto_top_ups().choose(setting, None)
    await top_up(context)
    await top_up(context)
    assert (await container.ledger().balance(account)).paid == usd("20")
    assert await letters(container) == ["receipt"]


async def test_a_low_balance_is_written_of_once(
    context: dict[str, Any], stripe: StripeServer
) -> None:
    container = context["container"]
    account = await an_owner(container)
    await container.ledger().deposit(new_id(), account, usd("5"), "before")
    await spend(container, account, usd("4.50"))
    await tell_low(context)
    await tell_low(context)
    assert await letters(container) == ["low_balance"]


def test_each_job_of_sales_is_named_once_and_a_long_round_has_its_time() -> None:
    jobs = sales_jobs()
    assert len({job.name for job in jobs}) == len(jobs) == 3
    assert {job.timeout_s for job in jobs if "reconcile" in job.name} == {1800.0}
