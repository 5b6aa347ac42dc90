"""Which adapter stands behind which port: the only file that names them all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog
from dependency_injector import containers, providers

from adapters.alerts import LogBillingAlerts
from adapters.http.app import Gateway, Parts
from adapters.http.billing import Sales
from adapters.http.federation import CALLBACK
from adapters.http.identity import Ways
from adapters.http.pages import BACK
from adapters.http.public import Public
from adapters.http.receipts import Books
from adapters.http.strangers import StrangerLimit
from adapters.http.text import Limits
from adapters.mail.folder import FolderCarrier
from adapters.mail.message import sender_of
from adapters.mail.render import JinjaPrinter
from adapters.mail.smtp import Security, Server, SmtpCarrier
from adapters.postgres.accounts import PostgresAccounts, PostgresOperators, PostgresOverrides
from adapters.postgres.identity import (
    PostgresAuthorizationCodes,
    PostgresDeviceCodes,
    PostgresIdentities,
    PostgresLinks,
)
from adapters.postgres.keys import PostgresKeys, PostgresSignIns
from adapters.postgres.ledger import PostgresLedger
from adapters.postgres.limit_requests import PostgresLimitRequests
from adapters.postgres.mail import PostgresMails
from adapters.postgres.once import PostgresClaims
from adapters.postgres.orders import PostgresNotices, PostgresOrders
from adapters.postgres.probes import PostgresProbes
from adapters.postgres.receipts import PostgresReceipts
from adapters.postgres.referrals import PostgresReferrals
from adapters.postgres.reports import PostgresReports
from adapters.postgres.settlements import PostgresSettlements
from adapters.postgres.statements import PostgresStatements
from adapters.postgres.topups import PostgresAlarms, PostgresTopUps
from adapters.postgres.units import PostgresUnits, make_engine
from adapters.redis.attempts import RedisAttempts
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
from adapters.workers.queue import ArqBell
from kyma.catalog.embeddings import EMBEDDING_MODELS
from kyma.catalog.model import Catalogue, Model
from kyma.catalog.text import ALIASES, TEXT_MODELS
from kyma.flows.access import Access
from kyma.flows.authorize import Authorize
from kyma.flows.billing import Billing
from kyma.flows.chat import Chat
from kyma.flows.credits import Credits
from kyma.flows.devices import Devices
from kyma.flows.federation import Federation
from kyma.flows.keys import KeySettings
from kyma.flows.limit_requests import HigherLimits
from kyma.flows.links import MailLinks
from kyma.flows.newcomers import Newcomers
from kyma.flows.once import Once
from kyma.flows.overrides import TierOverrides
from kyma.flows.post import Delivery, LostLetters, PromptOutbox
from kyma.flows.quote import Quotes
from kyma.flows.referrals import Referrals, Rewards
from kyma.flows.repeats import Repeats
from kyma.flows.sessions import Sessions
from kyma.flows.settlements import UncreditedPayments
from kyma.flows.signin import NewOperators, OperatorSignIn
from kyma.flows.throttle import Throttle
from kyma.flows.till import Till
from kyma.flows.topup import AutoTopUps, LowBalances
from kyma.identity import Client
from kyma.ports.billing import Statements
from kyma.ports.mail import Carrier
from kyma.ports.runtime import Chance, Digests
from kyma.ports.storage import Accounts, StorageUnavailable
from kyma.strangers import Strangers

if TYPE_CHECKING:
    from adapters.identity.google import GoogleIdentity
    from adapters.payments.stripe import StripePayments

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


def make_carrier(settings: Settings) -> Carrier:
    """The mail server as set, or the folder that stands in for one."""
    sender = sender_of(settings.mail_from)
    if not settings.smtp_host:
        return FolderCarrier(settings.data_dir / "mail", sender)
    server = Server(
        settings.smtp_host,
        settings.smtp_port,
        Security(settings.smtp_security),
        settings.smtp_user,
        settings.smtp_password.get_secret_value(),
    )
    return SmtpCarrier(server, sender)


def make_clients(settings: Settings) -> dict[str, Client]:
    """The applications that are registered."""
    return {
        id: Client(id, client.name, client.redirect_uris)
        for id, client in settings.oauth_clients.items()
    }


def make_processor(settings: Settings, clock: SystemClock) -> StripePayments:
    """Stripe; only where billing is on, since its library takes a fifth of a second to load."""
    from adapters.payments.stripe import StripePayments  # noqa: PLC0415 - see above

    return StripePayments(
        settings.stripe_secret_key.get_secret_value(),
        settings.stripe_webhook_secret.get_secret_value(),
        now=clock.now,
        api_base=settings.stripe_api_base,
        tax=settings.stripe_tax,
    )


def make_google(settings: Settings) -> GoogleIdentity:
    """Google; only where it is set, since its libraries take a third of a second to load."""
    from adapters.identity.google import GoogleIdentity  # noqa: PLC0415 - see above

    secret = settings.google_client_secret.get_secret_value()
    return GoogleIdentity(settings.google_issuer, settings.google_client_id, secret)


def make_ways(
    settings: Settings,
    access: Access,
    sessions: Sessions,
    devices: Devices,
    authorize: Authorize,
    links: MailLinks,
    federation: Callable[[], Federation],
    digests: Digests,
    chance: Chance,
    sales: Sales | None,
) -> Ways:
    """The ways in besides a key, and the way back from paying."""
    is_set = bool(settings.google_client_id)
    return Ways(
        settings.base_url, access, sessions, devices, authorize, links,
        federation() if is_set else None, digests, chance,
        None if sales is None else sales.state_of,
    )  # fmt: skip


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
    repeats: Repeats,
    books: Books,
    keys: KeySettings,
    sessions: Sessions,
    board: SharedHealth,
    probes: PostgresProbes,
    pulse: Pulse,
    limits_asked: HigherLimits,
    referrals: Referrals,
    newcomers: Newcomers,
    ways: Ways,
    statements: Statements,
    sales: Sales | None,
    strangers: StrangerLimit,
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
            ready, once, repeats, books, keys, sessions,
            Public(
                settings.base_url, board, probes,
                {"redis": pulse.redis_answers, "worker": pulse.worker_beats},
            ),
            limits_asked, referrals, newcomers, ways, statements, sales, strangers,
        )
    )  # fmt: skip


class Container(containers.DeclarativeContainer):
    """Lazy singletons; `start` and `stop` run what must live on an event loop."""

    settings: providers.Provider[Settings] = providers.Dependency(instance_of=Settings)
    local_models: providers.Provider[tuple[Model, ...]] = providers.Object(())

    clock = providers.Singleton(SystemClock)
    chance = providers.Singleton(SystemChance)
    passwords = providers.Singleton(Argon2Passwords, settings.provided.password_memory_mb)
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
    attempts = providers.Singleton(
        RedisAttempts, redis, trust_loopback=settings.provided.is_development
    )
    throttle = providers.Singleton(Throttle, attempts)
    strangers = providers.Singleton(
        StrangerLimit,
        providers.Singleton(Strangers, trust_loopback=settings.provided.is_development),
        clock.provided.monotonic,
    )
    board = providers.Singleton(SharedHealth, redis)
    pulse = providers.Singleton(Pulse, redis)
    conversations = providers.Singleton(RedisConversations, redis, digests)

    endpoints = providers.Singleton(enabled, settings)
    transport = providers.Singleton(Transport, providers.Callable(make_timeouts, settings))
    upstream = providers.Singleton(ProviderChat, transport, endpoints)
    prober = providers.Singleton(ProviderProbes, transport, endpoints)
    catalogue = providers.Singleton(make_catalogue, local_models, endpoints)

    access = providers.Singleton(
        Access, accounts, principals, limiter, passwords, digests, principals, clock, chance,
        throttle, confirms=settings.provided.confirms,
    )  # fmt: skip
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
    repeats = providers.Singleton(Repeats, claims, vault, digests)
    quotes = providers.Singleton(Quotes, access, chat, ledger, board, conversations, clock, chance)
    books = providers.Singleton(Books, receipts, receipts, quotes)
    key_rows = providers.Singleton(PostgresKeys, units)
    keys = providers.Singleton(KeySettings, accounts, key_rows, principals, digests, clock, chance)
    sign_ins = providers.Singleton(PostgresSignIns, units)
    sessions = providers.Singleton(Sessions, sign_ins, principals)
    tier_overrides = providers.Singleton(
        TierOverrides, accounts, overrides, clock, chance, principals
    )
    orders = providers.Singleton(PostgresOrders, units)
    mails = providers.Singleton(PostgresMails, units)
    bell = providers.Singleton(ArqBell, redis)
    outbox = providers.Singleton(PromptOutbox, mails, bell)
    lost_letters = providers.Singleton(LostLetters, mails, bell)
    settlements = providers.Singleton(PostgresSettlements, units)
    uncredited_payments = providers.Singleton(UncreditedPayments, settlements)
    printer = providers.Singleton(JinjaPrinter, settings.provided.base_url)
    carrier = providers.Singleton(make_carrier, settings)
    delivery = providers.Singleton(Delivery, mails, printer, carrier, clock, chance)
    limit_requests = providers.Singleton(PostgresLimitRequests, units)
    higher_limits = providers.Singleton(
        HigherLimits, limit_requests, tier_overrides, outbox, chance
    )
    referral_book = providers.Singleton(PostgresReferrals, units)
    referrals = providers.Singleton(Referrals, referral_book, chance)
    newcomers = providers.Singleton(Newcomers, referrals, outbox)
    rewards = providers.Singleton(Rewards, referral_book, ledger)
    identities = providers.Singleton(PostgresIdentities, units)
    link_rows = providers.Singleton(PostgresLinks, units)
    device_codes = providers.Singleton(PostgresDeviceCodes, units)
    authorization_codes = providers.Singleton(PostgresAuthorizationCodes, units)
    google = providers.Singleton(make_google, settings)
    devices = providers.Singleton(
        Devices, device_codes, accounts, ledger, throttle, digests, chance
    )
    authorize = providers.Singleton(
        Authorize, providers.Callable(make_clients, settings), authorization_codes, accounts,
        ledger, digests, principals, chance,
    )  # fmt: skip
    links = providers.Singleton(
        MailLinks, settings.provided.base_url, accounts, link_rows, identities, access, throttle,
        passwords, outbox, newcomers, digests, principals, clock, chance,
    )  # fmt: skip
    federation = providers.Singleton(
        Federation, google,
        providers.Callable(lambda url: url + CALLBACK, settings.provided.base_url), identities,
        accounts, link_rows, links, access, newcomers, digests, principals, clock, chance,
    )  # fmt: skip
    processor = providers.Singleton(make_processor, settings, clock)
    notices = providers.Singleton(PostgresNotices, units)
    top_ups = providers.Singleton(PostgresTopUps, units)
    alarms = providers.Singleton(PostgresAlarms, units)
    statements = providers.Singleton(PostgresStatements, units)
    billing_alerts = providers.Singleton(LogBillingAlerts)
    till = providers.Singleton(
        Till, processor, processor, orders,
        providers.Callable(lambda url: url + BACK, settings.provided.base_url),
    )  # fmt: skip
    credit_sales = providers.Singleton(
        Credits, processor, till, orders, notices, orders, ledger, outbox, billing_alerts,
        principals, clock, chance,
    )  # fmt: skip
    auto_top_ups = providers.Singleton(
        AutoTopUps, processor, till, credit_sales, top_ups, orders, orders, outbox, billing_alerts,
        clock, chance,
    )  # fmt: skip
    low_balances = providers.Singleton(LowBalances, alarms, orders, outbox)
    sales = providers.Selector(
        providers.Callable(lambda bills: "on" if bills else "off", settings.provided.bills),
        on=providers.Singleton(Sales, credit_sales, till, auto_top_ups, throttle),
        off=providers.Object(None),
    )
    ways = providers.Singleton(
        make_ways, settings, access, sessions, devices, authorize, links,
        federation.provider, digests, chance, sales,
    )  # fmt: skip
    operator_sign_in = providers.Singleton(OperatorSignIn, operators, passwords, throttle)
    new_operators = providers.Singleton(NewOperators, operators, passwords, clock)

    gateway = providers.Singleton(
        make_gateway,
        settings, access, chat, catalogue, accounts, ledger, reports, limiter, clock,
        chance, digests, once, repeats, books, keys, sessions, board, probes, pulse, higher_limits,
        referrals, newcomers, ways, statements, sales, strangers,
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
    if container.settings().google_client_id:
        await container.google().close()
    if container.settings().bills:
        await container.processor().close()
    await container.redis().aclose()
    await container.units().close()
