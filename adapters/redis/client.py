"""How this service connects to Redis."""

from __future__ import annotations

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff


def make_redis(url: str) -> Redis:
    """A client that fails fast: limits and health have their own answer to an absent Redis."""
    client: Redis = Redis.from_url(
        url, socket_connect_timeout=0.5, retry=Retry(NoBackoff(), 0), health_check_interval=0
    )
    return client


def channel(client: Redis, name: str) -> str:
    """A channel of the client's own database: Redis has one name space for those of all."""
    return f"{name}:{client.connection_pool.connection_kwargs.get('db') or 0}"
