"""Who may come in: registration, sign-in, admission, and each refusal on the way."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from adapters.http.errors import headers_of
from adapters.memory.keys import MemoryAttempts
from adapters.memory.runtime import (
    MemoryChance,
    MemoryClock,
    MemoryInvalidations,
    MemoryLimiter,
    MemoryPasswords,
)
from adapters.memory.storage import MemoryAccounts, MemoryLedger, MemoryOverrides, MemoryStore
from adapters.system import HmacDigests
from kyma.accounts import Account, Key, Session, looks_like_key
from kyma.calls import Size
from kyma.errors import Code, Refusal
from kyma.flows.access import SESSION_DAYS, SIGN_UP_CREDIT, Access, Welcome
from kyma.flows.throttle import Throttle
from kyma.money import ZERO, Usd, usd
from kyma.ports.storage import Principal, StorageUnavailable
from kyma.throttles import LIMITS, Guarded
from kyma.tiers import TIERS, Override, Standing
from tests.builders import new_id

SMALL = Size(10, 20, 30)


class AccountsAway(MemoryAccounts):
    """A store whose database can be away."""

    away = False

    def _check(self) -> None:
        if self.away:
            raise StorageUnavailable("away")

    async def principal(self, digest: bytes) -> Principal | None:
        self._check()
        return await super().principal(digest)

    async def changes(self) -> Set[tuple[str, str]]:
        self._check()
        return await super().changes()

    async def register(self, account: Account, key: Key, session: Session, bonus: Usd) -> bool:
        self._check()
        return await super().register(account, key, session, bonus)

    async def by_email(self, email: str) -> Account | None:
        self._check()
        return await super().by_email(email)

    async def revoke_key(self, account_id: str, key_id: str) -> Key | None:
        self._check()
        return await super().revoke_key(account_id, key_id)


@dataclass
class Door:
    access: Access
    accounts: AccountsAway
    store: MemoryStore
    clock: MemoryClock
    invalidations: MemoryInvalidations

    async def customer(self, email: str = "ana@example.com") -> Welcome:
        return await self.access.register(email, "secret-1")


@pytest.fixture
def door() -> Door:
    return a_door()


def a_door(*, confirms: bool = False) -> Door:
    clock = MemoryClock()
    store = MemoryStore(now=clock.now)
    accounts, invalidations = AccountsAway(store), MemoryInvalidations()
    access = Access(
        accounts,
        accounts,
        MemoryLimiter(clock.monotonic),
        MemoryPasswords(),
        HmacDigests("p" * 32),
        invalidations,
        clock,
        MemoryChance(),
        Throttle(MemoryAttempts(clock.monotonic)),
        confirms=confirms,
    )
    return Door(access, accounts, store, clock, invalidations)


async def code_of(work: object) -> Code:
    with pytest.raises(Refusal) as caught:
        await work
    return caught.value.code


async def test_registration_gives_a_key_a_session_and_the_sign_up_credit(door: Door) -> None:
    welcome = await door.access.register("  Ana@Example.com ", "secret-1")
    assert welcome.account.email == "ana@example.com"
    assert welcome.api_key is not None
    assert welcome.api_key.startswith("ky-")
    assert welcome.session_token.startswith("ks-")
    assert looks_like_key(welcome.api_key)
    assert looks_like_key(welcome.session_token)
    balance = await MemoryLedger(door.store).balance(welcome.account.id)
    assert balance.promo == SIGN_UP_CREDIT == usd("0.50")
    by_key = await door.access.identify(welcome.api_key)
    by_session = await door.access.identify(welcome.session_token)
    assert by_key.account_id == by_session.account_id == welcome.account.id
    assert (by_key.key_id != "", by_session.key_id) == (True, "")


async def test_no_secret_is_stored(door: Door) -> None:
    welcome = await door.customer()
    (key,) = door.store.keys.values()
    assert welcome.api_key is not None
    assert welcome.api_key not in repr(door.store)
    assert welcome.session_token not in repr(door.store)
    assert (key.prefix, key.last4) == (welcome.api_key[:7], welcome.api_key[-4:])


@pytest.mark.parametrize("email", ["ana@example.com", "ANA@EXAMPLE.COM", " ana@example.com "])
async def test_a_taken_address_is_refused(door: Door, email: str) -> None:
    await door.customer()
    assert await code_of(door.access.register(email, "secret-2")) is Code.EMAIL_TAKEN
    assert len(door.store.accounts) == len(door.store.keys) == 1


@pytest.mark.parametrize("password", ["", "12345", "x" * 513])
async def test_a_password_of_the_wrong_length_is_refused(door: Door, password: str) -> None:
    with pytest.raises(Refusal) as caught:
        await door.access.register("ana@example.com", password)
    assert (caught.value.code, caught.value.param) == (Code.INVALID_VALUE, "password")
    assert not door.store.accounts


@pytest.mark.parametrize("password", ["123456", "x" * 512, "пароль"])
async def test_a_password_at_the_limits_is_taken(door: Door, password: str) -> None:
    await door.access.register("ana@example.com", password)
    assert await door.access.login("ana@example.com", password)


async def test_sign_in_gives_a_session_and_no_key(door: Door) -> None:
    first = await door.customer()
    welcome = await door.access.login(" ANA@example.com", "secret-1")
    assert welcome.account == first.account
    assert welcome.api_key is None
    assert welcome.session_token != first.session_token
    assert (await door.access.identify(welcome.session_token)).account_id == first.account.id
    assert await door.access.identify(first.session_token)


@pytest.mark.parametrize(
    ("email", "password"),
    [("ana@example.com", "wrong-1"), ("bob@example.com", "secret-1"), ("", ""), ("%", "secret-1")],
)
async def test_a_wrong_sign_in_does_not_tell_which_half_was_wrong(
    door: Door, email: str, password: str
) -> None:
    await door.customer()
    with pytest.raises(Refusal) as caught:
        await door.access.login(email, password)
    assert caught.value.code is Code.WRONG_CREDENTIALS
    assert caught.value.message == "The address or the password is wrong."
    assert len(door.store.sessions) == 1


async def test_a_session_ends_after_its_days(door: Door) -> None:
    welcome = await door.customer()
    door.clock.move(timedelta(days=SESSION_DAYS).total_seconds() - 1)
    assert await door.access.identify(welcome.session_token)
    door.clock.move(2)
    assert await code_of(door.access.identify(welcome.session_token)) is Code.EXPIRED_KEY


@pytest.mark.parametrize(
    ("secret", "code"),
    [
        (None, Code.MISSING_KEY),
        ("", Code.MISSING_KEY),
        ("sk-proj-1234567890123456789012345", Code.MALFORMED_KEY),
        ("ky-", Code.MALFORMED_KEY),
        ("ky-short", Code.MALFORMED_KEY),
        ("ky-" + "x" * 129, Code.MALFORMED_KEY),
        ("ky-0123456789abcdef0123456789abcdef\n", Code.MALFORMED_KEY),
        (" ky-0123456789abcdef0123456789abcdef", Code.MALFORMED_KEY),
        ("KY-0123456789abcdef0123456789abcdef", Code.MALFORMED_KEY),
        ("km-0123456789abcdef0123456789abcdef", Code.MALFORMED_KEY),
        ("ky-ключключключключключ", Code.MALFORMED_KEY),
        ("ky-0123456789abcdef0123456789abcdef", Code.INVALID_KEY),
        ("kyma-0123456789abcdef0123456789abcdef", Code.INVALID_KEY),
        ("ks-0123456789abcdef0123456789abcdef", Code.INVALID_KEY),
    ],
)
async def test_what_is_no_key_of_ours_is_refused_by_name(
    door: Door, secret: str | None, code: Code
) -> None:
    await door.customer()
    assert await code_of(door.access.identify(secret)) is code


async def test_a_malformed_key_costs_no_look_up(door: Door) -> None:
    door.accounts.away = True
    assert await code_of(door.access.identify("nonsense")) is Code.MALFORMED_KEY


async def test_an_older_kyma_key_is_accepted(door: Door) -> None:
    welcome = await door.customer()
    secret = "kyma-" + "0" * 48
    digest = HmacDigests("p" * 32).digest(secret)
    (key,) = door.store.keys.values()
    door.store.keys["old"] = replace(key, id="old", digest=digest)
    assert (await door.access.identify(secret)).account_id == welcome.account.id


DATABASE = "ky-0123456789abcdef0123456789abcdef"
SOMEBODY = Principal("a", "", "ana@example.com", Standing("a", ZERO, None))


@pytest.mark.parametrize(
    "ask",
    [
        lambda access: access.identify(DATABASE),
        lambda access: access.register("bob@example.com", "secret-1"),
        lambda access: access.login("ana@example.com", "secret-1"),
        lambda access: access.revoke_key(SOMEBODY, "b"),
    ],
    ids=["identify", "register", "login", "revoke"],
)
async def test_a_database_that_is_away_is_never_a_wrong_key(
    door: Door, ask: Callable[[Access], object]
) -> None:
    await door.customer()
    door.accounts.away = True
    with pytest.raises(Refusal) as caught:
        await ask(door.access)
    refusal = caught.value
    assert (refusal.code, refusal.retryable) == (Code.STORAGE_UNAVAILABLE, True)
    assert refusal.retry_after_s


async def test_a_request_is_admitted_under_the_tier_of_its_account(door: Door) -> None:
    welcome = await door.customer()
    principal = await door.access.identify(welcome.api_key)
    admission = await door.access.admit(principal, "m", SMALL)
    assert (admission.tier.level, admission.quota.tokens_used) == (0, 40)
    await MemoryLedger(door.store).deposit(new_id(), welcome.account.id, usd("50"), "test")
    principal = await door.access.identify(welcome.api_key)
    assert (await door.access.admit(principal, "m", SMALL)).tier.level == 2


async def test_an_override_is_in_force_at_the_next_request_and_ends_by_the_clock(
    door: Door,
) -> None:
    welcome = await door.customer()
    until = door.clock.now() + timedelta(hours=1)
    await MemoryOverrides(door.store).add(
        Override("o", welcome.account.id, 3, "ana", "a trial", door.clock.now(), until)
    )
    principal = await door.access.identify(welcome.api_key)
    assert door.access.tier(principal).level == 3
    door.clock.move(3600)
    assert door.access.tier(principal).level == 0, "even for one who is remembered"


@pytest.mark.parametrize(
    ("size", "passes"),
    [
        (Size(100_000, 150_000, 100_000), True),
        (Size(100_000, 100_000, 100_001), False),
        (Size(200_001, 200_001, 0), False),
        (Size(0, 10**9, 1), True),
    ],
)
async def test_one_request_may_use_so_many_tokens_and_no_more(
    door: Door, size: Size, passes: bool
) -> None:
    principal = await door.access.identify((await door.customer()).api_key)
    if passes:
        assert await door.access.admit(principal, "m", size)
        return
    with pytest.raises(Refusal) as caught:
        await door.access.admit(principal, "m", size)
    refusal = caught.value
    assert (refusal.code, refusal.param) == (Code.REQUEST_TOO_LARGE, "max_tokens")
    assert refusal.details["max_single_request"] == 200_000
    assert (await door.access.admit(principal, "m", SMALL)).quota.tokens_used == 40


@pytest.mark.parametrize(
    ("models", "limited_by", "words"),
    [
        (["m"] * 25, "model_requests", "25 requests/minute for m"),
        ([f"m{n}" for n in range(30)], "requests", "30 requests/minute"),
    ],
)
async def test_a_limit_that_is_reached_says_which_and_how_long(
    door: Door, models: list[str], limited_by: str, words: str
) -> None:
    principal = await door.access.identify((await door.customer()).api_key)
    for model in models:
        await door.access.admit(principal, model, SMALL)
        door.clock.move(0.5)
    with pytest.raises(Refusal) as caught:
        await door.access.admit(principal, "m", SMALL)
    refusal = caught.value
    assert refusal.code is Code.RATE_LIMITED
    assert words in refusal.message
    assert refusal.details["limit"] == limited_by
    assert refusal.retry_after_s == pytest.approx(60 - 0.5 * len(models))
    door.clock.move(refusal.retry_after_s)
    assert await door.access.admit(principal, "m", SMALL)


@pytest.mark.parametrize(
    ("waited_s", "words"), [(0.7, "60 seconds"), (58.8, "2 seconds"), (59.6, "1 second")]
)
async def test_the_wait_for_a_limit_is_told_as_its_header_tells_it(
    door: Door, waited_s: float, words: str
) -> None:
    principal = await door.access.identify((await door.customer()).api_key)
    for number in range(30):
        await door.access.admit(principal, f"m{number}", SMALL)
    door.clock.move(waited_s)
    with pytest.raises(Refusal) as caught:
        await door.access.admit(principal, "m", SMALL)
    assert f"Try again in {words}. " in caught.value.message
    told = dict(headers_of(caught.value))["Retry-After"]
    assert words.split(maxsplit=1)[0] == told


@pytest.mark.parametrize(
    ("waited_s", "words"), [(0.7, "900 seconds"), (898.8, "2 seconds"), (899.6, "1 second")]
)
async def test_the_wait_for_a_throttle_is_told_as_its_header_tells_it(
    waited_s: float, words: str
) -> None:
    clock = MemoryClock()
    throttle = Throttle(MemoryAttempts(clock.monotonic))
    for _ in range(LIMITS[Guarded.LOGIN].per_subject):
        await throttle.take(Guarded.LOGIN, "", "ana@example.com")
    clock.move(waited_s)
    with pytest.raises(Refusal) as caught:
        await throttle.take(Guarded.LOGIN, "", "ana@example.com")
    assert caught.value.message.endswith(f"Try again in {words}.")
    assert words.split(maxsplit=1)[0] == dict(headers_of(caught.value))["Retry-After"]


async def test_a_token_limit_is_of_the_minute(door: Door) -> None:
    principal = await door.access.identify((await door.customer()).api_key)
    await door.access.admit(principal, "m", Size(0, 0, 150_000))
    with pytest.raises(Refusal) as caught:
        await door.access.admit(principal, "m", Size(0, 0, 50_001))
    assert "200,000 tokens/minute" in caught.value.message
    assert await door.access.admit(principal, "m", Size(0, 0, 50_000))


async def test_all_keys_of_an_account_share_its_limits(door: Door) -> None:
    welcome = await door.customer()
    by_key = await door.access.identify(welcome.api_key)
    by_session = await door.access.identify(welcome.session_token)
    for _ in range(13):
        await door.access.admit(by_key, "m", SMALL)
    for _ in range(12):
        await door.access.admit(by_session, "m", SMALL)
    assert await code_of(door.access.admit(by_key, "m", SMALL)) is Code.RATE_LIMITED
    assert TIERS[0].model_requests_per_minute == 25


async def test_a_revoked_key_is_refused_and_everybody_is_told(door: Door) -> None:
    welcome = await door.customer()
    principal = await door.access.identify(welcome.api_key)
    key = await door.access.revoke_key(principal, principal.key_id)
    assert key.revoked_at == door.clock.now()
    assert door.invalidations.forgotten == [principal.account_id]
    assert await code_of(door.access.identify(welcome.api_key)) is Code.INVALID_KEY


async def test_a_strangers_key_cannot_be_revoked(door: Door) -> None:
    ana, bob = await door.customer(), await door.customer("bob@example.com")
    principal = await door.access.identify(ana.api_key)
    work = door.access.revoke_key(await door.access.identify(bob.api_key), principal.key_id)
    assert await code_of(work) is Code.NOT_FOUND
    assert door.invalidations.forgotten == []
    assert await door.access.identify(ana.api_key)


async def test_whoever_has_no_request_left_is_refused_before_their_body_is_read(
    door: Door,
) -> None:
    principal = await door.access.identify((await door.customer()).api_key)
    for _ in range(TIERS[0].requests_per_minute):
        await door.access.check_window(principal)
        await door.access.count(principal)
    with pytest.raises(Refusal) as caught:
        await door.access.check_window(principal)
    assert caught.value.code is Code.RATE_LIMITED
    assert caught.value.details["limit"] == "requests"
    assert 0 < (caught.value.retry_after_s or 0) <= 60
    door.clock.move(60.1)
    await door.access.check_window(principal)


async def test_a_refused_request_that_counts_costs_no_tokens_and_counts_once(door: Door) -> None:
    principal = await door.access.identify((await door.customer()).api_key)
    await door.access.count(principal)
    _, quota = await door.access.quota(principal)
    assert (quota.requests_used, quota.tokens_used) == (1, 0)
