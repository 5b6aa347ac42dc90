"""From a posted mail to a server's mailbox through arq itself, over real Postgres and Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest_asyncio
from arq import Worker, func
from arq.connections import ArqRedis
from arq.typing import WorkerCoroutine
from redis.asyncio import Redis
from sqlalchemy import text

from adapters.container import Container
from adapters.redis.client import make_redis
from adapters.settings import Settings
from adapters.workers.queue import DELIVER_MAIL, QUEUE, ArqBell
from adapters.workers.worker import deliver_mail, reward, tell_answers, tidy
from kyma.mail import Letter, Mail
from kyma.money import ZERO
from kyma.referrals import REWARD
from tests.builders import a_key, a_session, an_account, new_id
from tests.smtp_server import SmtpServer, smtp_server

MAIL = Mail("welcome/1", "ada@example.com", Letter.WELCOME)


@pytest_asyncio.fixture
async def server() -> AsyncIterator[SmtpServer]:
    async with smtp_server() as running:
        yield running


@pytest_asyncio.fixture
async def container(
    database_url: str, redis_url: str, server: SmtpServer
) -> AsyncIterator[Container]:
    made = Container(
        settings=Settings(
            database_url=database_url,
            redis_url=redis_url,
            key_pepper="test-pepper-" + "0" * 32,
            sandbox="on",
            smtp_host="127.0.0.1",
            smtp_port=server.port,
            smtp_security="none",
        )
    )
    yield made
    await made.ledger().close()
    await made.redis().aclose()
    await made.units().close()


async def work(container: Container, redis: Redis) -> int:
    """What the worker does until its queue is empty; how many jobs."""
    worker = Worker(
        functions=[func(cast(WorkerCoroutine, deliver_mail), name=DELIVER_MAIL, keep_result=0)],
        redis_pool=ArqRedis(redis.connection_pool),
        queue_name=QUEUE,
        ctx={"container": container},
        burst=True,
        poll_delay=0.01,
        handle_signals=False,
        keep_result=0,
    )
    await worker.async_run()
    assert worker.jobs_failed == 0
    return worker.jobs_complete


async def test_a_posted_mail_is_delivered_at_once_by_whoever_hears_the_bell(
    container: Container, redis: Redis, server: SmtpServer
) -> None:
    assert await container.outbox().post(MAIL) is True
    assert await work(container, redis) == 1
    assert [message["To"] for message in server.messages] == ["ada@example.com"]
    assert await work(container, redis) == 0


async def test_a_bell_rung_often_is_one_job(container: Container, redis: Redis) -> None:
    for number in range(5):
        await container.outbox().post(Mail(f"welcome/{number}", "a@example.com", Letter.WELCOME))
    assert await work(container, redis) == 1


async def test_the_bell_may_ring_again_after_a_job(container: Container, redis: Redis) -> None:
    for number in range(3):
        await container.outbox().post(Mail(f"welcome/{number}", "a@example.com", Letter.WELCOME))
        assert await work(container, redis) == 1


async def test_nothing_of_a_letter_is_in_redis(container: Container, redis: Redis) -> None:
    facts = {"reset_url": "https://kyma.example/reset?t=s3cret"}
    await container.outbox().post(Mail("reset/1", "ada@example.com", Letter.RESET, facts))
    stored = b""
    async for key in redis.scan_iter():
        stored += key + (await redis.dump(key) or b"")
    assert DELIVER_MAIL.encode() in stored
    assert b"s3cret" not in stored
    assert b"ada@example.com" not in stored


async def test_a_bell_that_nobody_hears_loses_no_mail(
    container: Container, server: SmtpServer
) -> None:
    deaf = make_redis("redis://127.0.0.1:1/0")
    await ArqBell(deaf).ring()
    await deaf.aclose()
    await container.mails().post(MAIL)
    await deliver_mail({"container": container})
    assert len(server.messages) == 1


async def test_without_a_mail_server_letters_are_in_the_folder(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    container = Container(
        settings=Settings(
            database_url=database_url,
            redis_url=redis_url,
            key_pepper="test-pepper-" + "0" * 32,
            data_dir=tmp_path,
        )
    )
    await container.mails().post(MAIL)
    await deliver_mail({"container": container})
    (letter,) = (tmp_path / "mail").glob("*.eml")
    assert b"Welcome to Kyma" in letter.read_bytes()
    await container.ledger().close()
    await container.units().close()


async def test_an_answer_that_nobody_was_told_of_is_told_by_the_worker(
    container: Container, server: SmtpServer
) -> None:
    """As if the process had died between the answer and its letter."""
    account = an_account("ada@example.com")
    await container.accounts().register(account, a_key(account), a_session(account), ZERO)
    id = new_id()
    await container.limit_requests().add(id, account.id, "Example", "support", "much")
    assert await container.limit_requests().decline(id, "olga", "not yet") is True
    for _ in range(2):
        await tell_answers({"container": container})
        await deliver_mail({"container": container})
    (message,) = server.messages
    assert message["Subject"] == "Your request for higher limits"


async def test_a_verified_referral_that_was_not_paid_is_paid_by_the_worker(
    container: Container,
) -> None:
    referrer = an_account()
    referred = replace(an_account(), sent_by=referrer.id)
    for account in (referrer, referred):
        await container.accounts().register(account, a_key(account), a_session(account), ZERO)
    ids = [referrer.id, referred.id]
    async with container.units().unit() as connection:
        await connection.execute(
            text("UPDATE referrals SET state = 'verified', verified_at = now()")
        )
    for _ in range(2):
        await reward({"container": container})
    assert [(await container.ledger().balance(id)).promo for id in ids] == [REWARD, REWARD]


async def test_tidying_erases_the_addresses_of_old_mails(container: Container) -> None:
    await container.mails().post(MAIL)
    await deliver_mail({"container": container})
    async with container.units().unit() as connection:
        await connection.execute(text("UPDATE mails SET ended_at = now() - interval '31 days'"))
    await tidy({"container": container})
    async with container.units().unit() as connection:
        row = (await connection.execute(text("SELECT id, recipient, state FROM mails"))).one()
    assert (row.id, row.recipient, row.state) == (MAIL.id, "", "sent")
