"""Request and token limits in Redis: one script per request, whole batches per round trip.

Takes that arrive while a round trip is under way form the next pipeline. When Redis is away
or slow, requests pass unlimited, and that is counted and logged: money has limits of its own.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from enum import IntEnum
from itertools import islice
from pathlib import Path
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError, ResponseError

from adapters.redis.budget import Budget
from adapters.redis.line import Command, Line
from kyma.ports.runtime import Quota
from kyma.tiers import TIERS, Tier

log = structlog.get_logger("kyma.limiter")

SCRIPT = Path(__file__).with_name("window.lua").read_text()
MAX_BATCH = 256
RETURN_S = 0.5
RETURN_AGAIN_S = 0.02
RETURNED_AT_ONCE = 32
"""Accounts whose corrections go to Redis on their own, because they ask for nothing else."""

PAUSE_S = 1.0
"""After a failure Redis is left alone this long: a slow one is worse than a dead one."""


class _Kind(IntEnum):
    """What is asked of the script; what only asks, or corrects, passes no limit."""

    PEEK = 0
    COUNT = 1
    CORRECT = 2


@dataclass(slots=True)
class _Take:
    account_id: str
    words: str
    kind: _Kind
    done: asyncio.Future[Quota] | None
    """Nobody waits for a correction."""


class RedisLimiter:
    """The `Limiter` port."""

    def __init__(self, redis: Redis, timeout_s: float) -> None:
        self._redis = redis
        self._line = Line(redis)
        self._timeout_s = timeout_s
        self._waiting: list[_Take] = []
        self._writer: asyncio.Task[None] | None = None
        self._sha: str | None = None
        self._corrections: dict[str, list[str]] = {}
        self._returning: asyncio.TimerHandle | None = None
        self._paused_until = 0.0
        self._serial = 0
        self._me = os.urandom(6).hex()
        self.passed_unlimited = 0
        """Requests that passed because the counters could not be reached."""
        self._unsaid = 0
        self._saying: asyncio.TimerHandle | None = None

    async def take(self, account_id: str, model: str, tokens: int, tier: Tier) -> Quota:
        """Count a request if the tier allows it."""
        return await self._ask(account_id, model, tokens, tier, _Kind.COUNT)

    async def peek(self, account_id: str) -> Quota:
        """What is used now."""
        return await self._ask(account_id, "", 0, TIERS[0], _Kind.PEEK)

    def correct(self, account_id: str, quota: Quota, tokens: int) -> None:
        """Send the correction with the account's next script, or soon after half a second."""
        if not tokens or not quota.counted_at:
            return
        self._corrections.setdefault(account_id, []).append(f"{quota.counted_at}:{tokens}")
        if self._returning is None:
            loop = asyncio.get_running_loop()
            self._returning = loop.call_later(RETURN_S, self._return_some)

    def _return_some(self) -> None:
        """A few at a time: requests wait for the batch before theirs."""
        for account_id in list(islice(self._corrections, RETURNED_AT_ONCE)):
            self._queue(account_id, "", 0, TIERS[0], _Kind.CORRECT, None)
        self._returning = None
        if self._corrections:
            loop = asyncio.get_running_loop()
            self._returning = loop.call_later(RETURN_AGAIN_S, self._return_some)

    async def _ask(
        self, account_id: str, model: str, tokens: int, tier: Tier, kind: _Kind
    ) -> Quota:
        if time.monotonic() < self._paused_until:
            return self._unlimited(kind)
        done: asyncio.Future[Quota] = asyncio.get_running_loop().create_future()
        self._queue(account_id, model, tokens, tier, kind, done)
        return await done

    def _queue(
        self,
        account_id: str,
        model: str,
        tokens: int,
        tier: Tier,
        kind: _Kind,
        done: asyncio.Future[Quota] | None,
    ) -> None:
        self._serial += 1
        name = model.replace("|", "_")  # the script's separator
        take = _Take(
            account_id,
            f"{self._me}{self._serial:x}|{name}|{tokens}|{tier.requests_per_minute}"
            f"|{tier.model_requests_per_minute}|{tier.tokens_per_minute}"
            f"|{','.join(self._corrections.pop(account_id, ()))}|{kind:d}",
            kind,
            done,
        )
        self._waiting.append(take)
        if self._writer is None:
            self._write()

    def _write(self) -> None:
        self._writer = asyncio.get_running_loop().create_task(self._drain())
        self._writer.add_done_callback(self._written)

    def _written(self, _: asyncio.Task[None]) -> None:
        """However it ended, and even if it was cancelled before it began."""
        self._writer = None
        if self._waiting:
            self._write()

    async def _drain(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
            try:
                answers = await self._within_budget(batch)
                for take, answer in zip(batch, answers, strict=True):
                    if take.done is not None and not take.done.done():
                        take.done.set_result(_quota(answer))
            except (RedisError, OSError, TimeoutError) as error:
                self._give_up(batch, error)
            except BaseException as error:
                # Whatever it is: who waits here would wait for ever.
                self._give_up(batch, error)
                log.exception("limits_broken")
                if not isinstance(error, Exception):
                    raise

    def _give_up(self, batch: list[_Take], error: BaseException) -> None:
        """Let all pass that wait, and Redis alone for a while."""
        self._paused_until = time.monotonic() + PAUSE_S
        for take in batch + self._waiting:
            if take.done is not None and not take.done.done():
                take.done.set_result(self._unlimited(take.kind))
        self._waiting = []
        log.warning("limits_unavailable", error=type(error).__name__)

    async def _within_budget(self, batch: list[_Take]) -> list[Any]:
        """Answers, or `TimeoutError` if Redis was slow."""
        with Budget(self._timeout_s):
            if self._sha is None:
                self._sha = str(await self._redis.script_load(SCRIPT))
            answers = await self._line.ask(self._commands(batch))
            if any(isinstance(answer, NoScriptError) for answer in answers):
                await self._ask_again(batch, answers)
        for answer in answers:
            if isinstance(answer, ResponseError):
                raise answer
        return answers

    async def _ask_again(self, batch: list[_Take], answers: list[Any]) -> None:
        """Redis lost our script, perhaps in the middle: those before that were counted."""
        self._sha = str(await self._redis.script_load(SCRIPT))
        missed = [n for n, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        again = await self._line.ask(self._commands([batch[n] for n in missed]))
        for n, answer in zip(missed, again, strict=True):
            answers[n] = answer

    def _commands(self, batch: list[_Take]) -> list[Command]:
        sha = self._sha or ""
        return [
            (
                "EVALSHA",
                sha,
                2,
                f"kyma:rl:{{{take.account_id}}}",
                f"kyma:rs:{{{take.account_id}}}",
                take.words,
            )
            for take in batch
        ]

    def _unlimited(self, kind: _Kind) -> Quota:
        if kind is _Kind.COUNT:
            self.passed_unlimited += 1
            self._unsaid += 1
            if self._saying is None:
                self._saying = asyncio.get_running_loop().call_later(PAUSE_S, self._say)
        return Quota(None, 0, 0, 0, unlimited=True)

    def _say(self) -> None:
        """One line for all that passed in a while: who is flooded needs no flood of lines."""
        log.warning(
            "requests_passed_unlimited", count=self._unsaid, since_start=self.passed_unlimited
        )
        self._unsaid, self._saying = 0, None

    async def close(self) -> None:
        """Give back what is still owed to accounts."""
        if self._saying is not None:
            self._saying.cancel()
            self._say()
        while self._returning is not None:
            self._returning.cancel()
            self._return_some()
        while self._writer is not None:
            await asyncio.wait([self._writer])
        await self._line.close()


def _quota(answer: Any) -> Quota:
    limited, requests, of_model, tokens, retry_ms, reset_ms, counted_at = answer
    return Quota(
        (limited.decode() if isinstance(limited, bytes) else limited) or None,
        int(requests),
        int(of_model),
        max(0, int(tokens)),
        int(retry_ms) / 1000,
        int(reset_ms) / 1000,
        counted_at=int(counted_at),
    )
