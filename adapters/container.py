"""Which adapter stands behind which port: the only file that names them all."""

from __future__ import annotations

import asyncio

import structlog
from dependency_injector import containers, providers

from adapters.http.app import Gateway, Parts
from adapters.http.public import Public
from adapters.http.receipts import Books
from adapters.http.text import Limits
from adapters.postgres.accounts import PostgresAccounts, PostgresOperators, PostgresOverrides
from adapters.postgres.ledger import PostgresLedger
from adapters.postgres.once import PostgresClaims
from adapters.postgres.probes import PostgresProbes
from adapters.postgres.receipts import PostgresReceipts
from adapters.postgres.reports import PostgresReports
from adapters.postgres.units import PostgresUnits, make_engine
from adapters.redis.client import make_redis
from adapters.redis.conversations import RedisConversations
from adapters.redis.health import SharedHealth
from adapters.redis.limiter import RedisLimiter
from adapters.redis.pulse import Pulse
from adapters.redis.standings import RememberedPrincipals
from adapters.settings import Settings
from adapters.system import Argon2Passwords, HmacDigests, LogAlerts, SystemChance, SystemClock
from adapters.upstreams.chat import ProviderChat
from adapters.upstreams.local import discover
from adapters.upstreams.probes import ProviderProbes
from adapters.upstreams.providers import Endpoint, enabled
from adapters.upstreams.transport import Timeouts, Transport
from adapters.vault import AesVault
from kyma.catalog.embeddings import EMBEDDING_MODELS
from kyma.catalog.model import Catalogue, Model
from kyma.catalog.text import ALIASES, TEXT_MODELS
from kyma.flows.access import Access
from kyma.flows.billing import Billing
from kyma.flows.chat import Chat
from kyma.flows.keys import KeySettings
from kyma.flows.once import Once
from kyma.flows.overrides import TierOverrides
from kyma.flows.quote import Quotes
from kyma.flows.signin import OperatorSignIn
from kyma.ports.storage import Accounts, StorageUnavailable

log = structlog.get_logger("kyma")

HOLD_MARGIN_S = 120
"""A hold outlives the longest request by this much, so that only dead ones are swept."""

STAND_INS = ("sandbox", "sandbox-2")


def make_timeouts(settings: Settings) -> Timeouts:
    """Upstream timeouts as set."""
    return Timeouts(
        settings.connect_timeout_s,
        settings.first_byte_timeout_s,
        settings.chunk_timeout_s,
        settings.answer_timeout_s,
    )


def make_catalogue(local: tuple[Model, ...], endpoints: dict[str, Endpoint]) -> Catalogue:
    """The rows, the local server's models, and the sandbox in front of none of them."""
    stand_ins = tuple(name for name in STAND_INS if name in endpoints)
    named = [name for name in endpoints if name not in stand_ins]
    return Catalogue((*TEXT_MODELS, *EMBEDDING_MODELS, *local), ALIASES, named, stand_ins=stand_ins)


def make_gateway(
    settings: Settings,
    access: Access,
    chat: Chat,
    catalogue: Catalogue,
    accounts: Accounts,
    ledger: PostgresLedger,
    reports: PostgresReports,
    limiter: RedisLimiter,
    clock: SystemClock,
    chance: SystemChance,
    digests: HmacDigests,
    once: Once,
    books: Books,
    keys: KeySettings,
    board: SharedHealth,
    probes: PostgresProbes,
    pulse: Pulse,
) -> Gateway:
    """The HTTP application over these parts."""

    async def ready() -> None:
        # The query that authentication depends on, not a `SELECT 1`.
        async with asyncio.timeout(2):
            await accounts.principal(digests.digest("ky-readiness-probe"))

    return Gateway(
        Parts(
            access, chat, catalogue, accounts, ledger, reports, limiter, clock, chance,
            Limits(
                settings.body_limit_bytes, settings.body_timeout_s, settings.keepalive_s,
                settings.request_timeout_s + HOLD_MARGIN_S,
            ),
            ready, once, books, keys,
            Public(
                settings.base_url, board, probes,
                {"redis": pulse.redis_answers, "worker": pulse.worker_beats},
            ),
        )
    )  # fmt: skip


class Container(containers.DeclarativeContainer):
    """Lazy singletons; `start` and `stop` run what must live on an event loop."""

    settings: providers.Provider[Settings] = providers.Dependency(instance_of=Settings)
    local_models: providers.Provider[tuple[Model, ...]] = providers.Object(())

    clock = providers.Singleton(SystemClock)
    chance = providers.Singleton(SystemChance)
    passwords = providers.Singleton(Argon2Passwords)
    alerts = providers.Singleton(LogAlerts)
    digests = providers.Singleton(HmacDigests, settings.provided.key_pepper.get_secret_value.call())

    engine = providers.Singleton(
        make_engine, settings.provided.database_url, settings.provided.database_pool
    )
    units = providers.Singleton(PostgresUnits, engine)
    ledger = providers.Singleton(PostgresLedger, engine, units)
    accounts = providers.Singleton(PostgresAccounts, units)
    overrides = providers.Singleton(PostgresOverrides, units)
    operators = providers.Singleton(PostgresOperators, units)
    reports = providers.Singleton(PostgresReports, engine)
    probes = providers.Singleton(PostgresProbes, units)

    redis = providers.Singleton(make_redis, settings.provided.redis_url)
    limiter = providers.Singleton(
        RedisLimiter,
        redis,
        providers.Callable(lambda ms: ms / 1000, settings.provided.redis_timeout_ms),
    )
    principals = providers.Singleton(RememberedPrincipals, accounts, redis)
    board = providers.Singleton(SharedHealth, redis)
    pulse = providers.Singleton(Pulse, redis)
    conversations = providers.Singleton(RedisConversations, redis, digests)

    endpoints = providers.Singleton(enabled, settings)
    transport = providers.Singleton(Transport, providers.Callable(make_timeouts, settings))
    upstream = providers.Singleton(ProviderChat, transport, endpoints)
    prober = providers.Singleton(ProviderProbes, transport, endpoints)
    catalogue = providers.Singleton(make_catalogue, local_models, endpoints)

    access = providers.Singleton(
        Access, accounts, principals, limiter, passwords, digests, principals, clock, chance
    )
    billing = providers.Singleton(
        Billing,
        ledger,
        providers.Callable(
            lambda seconds: int(seconds) + HOLD_MARGIN_S, settings.provided.request_timeout_s
        ),
    )
    chat = providers.Singleton(
        Chat,
        catalogue,
        billing,
        upstream,
        board,
        limiter,
        conversations,
        alerts,
        clock,
        chance,
        settings.provided.request_timeout_s,
    )
    claims = providers.Singleton(PostgresClaims, units)
    receipts = providers.Singleton(PostgresReceipts, units)
    vault = providers.Singleton(AesVault)
    once = providers.Singleton(Once, claims, receipts, ledger, vault)
    quotes = providers.Singleton(Quotes, access, chat, ledger, board, conversations, clock, chance)
    books = providers.Singleton(Books, receipts, receipts, quotes)
    keys = providers.Singleton(KeySettings, accounts, principals)
    tier_overrides = providers.Singleton(
        TierOverrides, accounts, overrides, clock, chance, principals
    )
    operator_sign_in = providers.Singleton(OperatorSignIn, operators, passwords, clock)

    gateway = providers.Singleton(
        make_gateway,
        settings, access, chat, catalogue, accounts, ledger, reports, limiter, clock,
        chance, digests, once, books, keys, board, probes, pulse,
    )  # fmt: skip


async def start(container: Container) -> None:
    """Find the local server's models and begin to listen to other processes."""
    settings = container.settings()
    if settings.local_url:
        key = settings.local_key.get_secret_value()
        container.local_models.override(providers.Object(await discover(settings.local_url, key)))
    await _remember_prices(container)
    container.principals().start()
    container.board().start()


async def _remember_prices(container: Container) -> None:
    """So that receipts can be reckoned again when prices have changed."""
    catalogue = container.catalogue()
    prices = {model.id: model.price for model in catalogue.models()}
    try:
        await container.receipts().remember(catalogue.price_version, prices)
    except StorageUnavailable as error:
        log.warning("prices_not_remembered", error=str(error))


async def stop(container: Container) -> None:
    """Finish what is under way, then close every connection."""
    await container.billing().drained()
    await container.limiter().close()
    await container.conversations().close()
    await container.principals().close()
    await container.board().close()
    await container.ledger().close()
    await container.transport().close()
    await container.redis().aclose()
    await container.units().close()
