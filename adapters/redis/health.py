"""Health of routes, shared: every process publishes what it sees and applies what all see.

The rule is `kyma.routing`'s; Redis only carries observations, and keeps the latest state
for a process that starts. Without Redis each process goes on with what it sees itself.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from collections.abc import Awaitable, Mapping
from typing import Any, cast

import orjson
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from adapters.redis.client import channel
from kyma import routing
from kyma.calls import Fault
from kyma.routing import UNKNOWN, Health

log = structlog.get_logger("kyma.health")

CHANNEL = "kyma:health"
STORE = "kyma:health"
FLUSH_S = 0.5
STORE_TTL_S = 3600


class SharedHealth:
    """The `HealthBoard` port."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._channel = channel(redis, CHANNEL)
        self._me = os.urandom(8).hex()
        self._health: dict[str, Health] = {}
        self._good: dict[str, list[float]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._bad: list[dict[str, Any]] = []
        self._wake = asyncio.Event()

    def view(self) -> Mapping[str, Health]:
        """The live mapping; do not keep it over an await."""
        return self._health

    def succeeded(self, key: str, latency_ms: float) -> None:
        """Apply now, tell the others with the next flush; at once if a breaker closes."""
        before = self._health.get(key, UNKNOWN)
        self._health[key] = routing.succeeded(before, latency_ms, time.time())
        self._good.setdefault(key, []).append(latency_ms)
        if before.open_until:
            self._wake.set()

    def failed(self, key: str, fault: Fault, retry_after_s: float | None = None) -> None:
        """Apply now and tell the others at once."""
        self._fail(key, fault, retry_after_s, time.time())
        self._bad.append({"k": key, "f": fault.value, "r": retry_after_s, "t": time.time()})
        self._wake.set()

    def probing(self, key: str) -> None:
        """Keep other calls of all processes away while one probes."""
        now = time.time()
        self._health[key] = routing.probing(self._health.get(key, UNKNOWN), now)
        self._bad.append({"k": key, "f": "", "r": None, "t": now})
        self._wake.set()

    def _fail(self, key: str, fault: Fault, retry_after_s: float | None, now: float) -> None:
        before = self._health.get(key, UNKNOWN)
        self._health[key] = routing.failed(before, fault, now, retry_after_s)

    def start(self) -> None:
        """Begin to publish and to listen."""
        loop = asyncio.get_running_loop()
        self._tasks = {loop.create_task(self._publish()), loop.create_task(self._listen())}

    async def _publish(self) -> None:
        while True:
            try:
                async with asyncio.timeout(FLUSH_S):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            bad, self._bad = self._bad, []
            good, self._good = self._good, {}
            if not bad and not good:
                continue
            means = [
                {"k": key, "n": len(seen), "l": sum(seen) / len(seen)} for key, seen in good.items()
            ]
            message = orjson.dumps({"from": self._me, "bad": bad, "good": means})
            touched = {item["k"] for item in (*bad, *means)}
            states = {key: orjson.dumps(dataclasses.asdict(self._health[key])) for key in touched}
            try:
                pipe = self._redis.pipeline(transaction=False)
                pipe.publish(self._channel, message)
                pipe.hset(STORE, mapping=states)
                pipe.expire(STORE, STORE_TTL_S)
                await pipe.execute()
            except (RedisError, OSError, TimeoutError) as error:
                log.warning("health_not_shared", error=type(error).__name__)
                await asyncio.sleep(1.0)

    async def _listen(self) -> None:
        while True:
            try:
                async with self._redis.pubsub() as words:
                    await words.subscribe(self._channel)
                    stored = await cast("Awaitable[dict[Any, Any]]", self._redis.hgetall(STORE))
                    for key, state in stored.items():
                        name = key.decode() if isinstance(key, bytes) else key
                        self._health.setdefault(name, Health(**orjson.loads(state)))
                    async for word in words.listen():
                        if word["type"] == "message":
                            self._hear(orjson.loads(word["data"]))
            except (RedisError, OSError, TimeoutError) as error:
                log.warning("health_not_heard", error=type(error).__name__)
                await asyncio.sleep(1.0)

    def _hear(self, word: dict[str, Any]) -> None:
        if word["from"] == self._me:
            return
        for item in word["bad"]:
            if item["f"]:
                self._fail(item["k"], Fault(item["f"]), item["r"], item["t"])
            else:
                before = self._health.get(item["k"], UNKNOWN)
                self._health[item["k"]] = routing.probing(before, item["t"])
        now = time.time()
        for item in word["good"]:
            before = self._health.get(item["k"], UNKNOWN)
            self._health[item["k"]] = routing.succeeded(before, item["l"], now)

    async def close(self) -> None:
        """Stop both."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
