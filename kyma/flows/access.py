"""Who may do what now: registration, sign-in, and the admission of every request.

Admission goes key → account → tier → quota; each step can refuse, none costs money.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

from kyma.accounts import (
    MAX_PASSWORD_LENGTH,
    MIN_PASSWORD_LENGTH,
    Account,
    Key,
    Session,
    looks_like_key,
    shown,
)
from kyma.calls import Size
from kyma.errors import Code, Refusal, in_seconds
from kyma.flows.throttle import Throttle
from kyma.keys import EVERY_SCOPE, Scope, check_hands_out
from kyma.money import ZERO, Usd, usd
from kyma.ports.runtime import Chance, Clock, Digests, Invalidations, Limiter, Passwords, Quota
from kyma.ports.storage import Accounts, Principal, Principals, StorageUnavailable
from kyma.throttles import Guarded
from kyma.tiers import Tier, tier_of

SIGN_UP_CREDIT = usd("0.50")
SESSION_DAYS = 30
"""Fixed: a session ends so long after the sign-in, however much it is used."""

MAX_USER_AGENT = 300
UNAVAILABLE = "The service cannot reach its database. Nothing was charged; try again shortly."


@dataclass(frozen=True, slots=True)
class Admission:
    """A request that may go on: whose it is, under which limits, and what is left of them."""

    principal: Principal
    tier: Tier
    quota: Quota


@dataclass(frozen=True, slots=True)
class Client:
    """Who knocks: the address of the connection, and what the program calls itself."""

    address: str = ""
    user_agent: str = ""


NOBODY = Client()


@dataclass(frozen=True, slots=True)
class Welcome:
    """What a person gets on registration or sign-in; secrets are shown only here."""

    account: Account
    api_key: str | None
    session_token: str
    is_taken: bool = False
    """That the address is another account's, for the letter alone: the answer must not tell."""


@dataclass(frozen=True, slots=True)
class Opening:
    """A new account with its first key and session, yet to be stored, and their secrets."""

    account: Account
    key: Key
    session: Session
    api_key: str
    session_token: str


def unavailable() -> Refusal:
    """The refusal for a database that is away: never a 401."""
    return Refusal(Code.STORAGE_UNAVAILABLE, UNAVAILABLE, retry_after_s=2)


class Access:
    """Registration, sign-in and admission."""

    def __init__(
        self,
        accounts: Accounts,
        principals: Principals,
        limiter: Limiter,
        passwords: Passwords,
        digests: Digests,
        invalidations: Invalidations,
        clock: Clock,
        chance: Chance,
        throttle: Throttle,
        *,
        confirms: bool = False,
    ) -> None:
        """`principals` may be a remembering one; `accounts` reads fresh.

        `confirms`: an address is an account's, and earns the sign-up credit, only when its owner
        has confirmed it by mail. So registering with a taken address looks like any other.
        """
        self._accounts = accounts
        self._principals = principals
        self._limiter = limiter
        self._passwords = passwords
        self._digests = digests
        self._invalidations = invalidations
        self._clock = clock
        self._chance = chance
        self._throttle = throttle
        self._confirms = confirms

    async def register(
        self,
        email: str,
        password: str,
        client: Client = NOBODY,
        bonus: Usd = SIGN_UP_CREDIT,
        id: str = "",
        sent_by: str = "",
    ) -> Welcome:
        """A new account with its first key, a session and the sign-up credit.

        `id` is the request's own, under which it makes one account however often it is worked on.
        `sent_by` is the account that invited it.
        """
        email = _normal(email)
        await self.count_registration(email, client)
        new = await self.prepare(email, password, client, id)
        account = replace(new.account, bound=not self._confirms, sent_by=sent_by)
        credit = ZERO if self._confirms else bonus
        try:
            created = await self._accounts.register(account, new.key, new.session, credit)
            taken = self._confirms and await self._accounts.by_email(email) is not None
        except StorageUnavailable as error:
            raise unavailable() from error
        if not created:
            raise Refusal(
                Code.EMAIL_TAKEN,
                "An account with this address exists. Sign in with POST /v1/auth/login.",
                param="email",
            )
        return Welcome(account, new.api_key, new.session_token, taken)

    async def count_registration(self, email: str, client: Client) -> None:
        """Refuse who opens too many accounts, whichever way: each is worth the sign-up credit."""
        await self._throttle.take(Guarded.REGISTER, client.address, _normal(email))

    async def prepare(
        self, email: str, password: str, client: Client = NOBODY, id: str = ""
    ) -> Opening:
        """An account to be stored; refuses what is no password."""
        check_password(password)
        now = self._clock.now()
        hashed = await self._passwords.hash(password)
        account = Account(id or self._chance.id(), _normal(email), hashed, now)
        api_key, token = self._chance.secret("ky-"), self._chance.secret("ks-")
        digest = self._digests.digest(api_key)
        key = Key(self._chance.id(), account.id, "default", digest, *shown(api_key), now)
        return Opening(account, key, self._session(account.id, token, client), api_key, token)

    async def login(self, email: str, password: str, client: Client = NOBODY) -> Welcome:
        """A session for the right password; the answer does not tell which half was wrong."""
        email = _normal(email)
        await self._throttle.take(Guarded.LOGIN, client.address, email)
        try:
            account = await self._accounts.by_email(email)
            hashed = account.password_hash if account else None
            if not await self._passwords.matches(password, hashed) or account is None:
                raise _wrong_credentials()
            token = await self.open_session(account.id, client, hashed)
        except StorageUnavailable as error:
            raise unavailable() from error
        await self._throttle.succeeded(Guarded.LOGIN, client.address, email)
        return Welcome(account, None, token)

    async def open_session(
        self, account_id: str, client: Client = NOBODY, password_hash: str | None = None
    ) -> str:
        """The token of a new session, for somebody who has shown who they are.

        `password_hash` is what they showed it by: refused if it was changed while they did.
        """
        token = self._chance.secret("ks-")
        session = self._session(account_id, token, client)
        if not await self._accounts.add_session(session, password_hash):
            raise _wrong_credentials()
        return token

    def _session(self, account_id: str, token: str, client: Client) -> Session:
        now = self._clock.now()
        return Session(
            account_id,
            self._digests.digest(token),
            now,
            now + timedelta(days=SESSION_DAYS),
            _printable(client.user_agent),
        )

    async def identify(
        self, secret: str | None, scope: Scope | None = None, address: str | None = None
    ) -> Principal:
        """Whose key or session this is, if it may be used for this and from there."""
        principal = await self.known(secret)
        self.permit(principal, scope, address)
        return principal

    async def known(self, secret: str | None) -> Principal:
        """Whose key or session this is, whatever it is used for.

        Refuses without a look-up what has no key's form.
        """
        if not secret:
            raise Refusal(
                Code.MISSING_KEY,
                "No API key. Send it as `Authorization: Bearer ky-…` or `x-api-key: ky-…`.",
            )
        if not looks_like_key(secret):
            raise Refusal(
                Code.MALFORMED_KEY, "This is not a Kyma API key: keys start with `ky-` or `kyma-`."
            )
        try:
            principal = await self._principals.principal(self._digests.digest(secret))
        except StorageUnavailable as error:
            raise unavailable() from error
        if principal is None:
            raise Refusal(
                Code.INVALID_KEY, "This API key is unknown or revoked. Create one and try again."
            )
        if principal.until is not None and principal.until <= self._clock.now():
            raise _over(principal)
        return principal

    def permit(self, principal: Principal, scope: Scope | None, address: str | None) -> None:
        """Refuse what this key may not be used for, or not from there.

        Without a `scope` it must have every one; a key with a list of networks needs the
        client's `address`.
        """
        policy = principal.policy
        if policy.networks and not policy.admits(address):
            raise Refusal(
                Code.ADDRESS_NOT_ALLOWED,
                f"This API key may not be used from {address or 'an unknown address'}: its owner "
                "allows it only from certain addresses. Nothing was charged.",
            )
        if scope not in policy.scopes and (scope is not None or policy.scopes != EVERY_SCOPE):
            needed = scope or "every scope"
            raise Refusal(
                Code.SCOPE_MISSING,
                f"This API key may not do this: it needs {needed} and has "
                f"{', '.join(sorted(policy.scopes))}. Its owner can change that.",
                details={"scope": scope},
            )

    def tier(self, principal: Principal) -> Tier:
        """The tier this customer has now."""
        standing = principal.standing
        return tier_of(standing.lifetime_deposits, standing.override, self._clock.now())

    async def quota(self, principal: Principal) -> tuple[Tier, Quota]:
        """The tier and what is used of its limits, without counting."""
        return self.tier(principal), await self._limiter.peek(principal.account_id)

    async def admit(self, principal: Principal, model: str, size: Size) -> Admission:
        """Count the request against the customer's limits, or refuse it."""
        check_model(principal, model)
        tier = self.tier(principal)
        tokens = size.likely_input + size.max_output
        if tokens > tier.max_request_tokens:
            raise Refusal(
                Code.REQUEST_TOO_LARGE,
                f"This request may use {tokens:,} tokens (prompt and max_tokens); {tier.name} "
                f"allows {tier.max_request_tokens:,} in one request. Lower max_tokens, or raise "
                "your tier with a deposit.",
                param="max_tokens",
                details={"tier": tier.level, "max_single_request": tier.max_request_tokens},
            )
        quota = await self._limiter.take(principal.account_id, model, tokens, tier)
        if quota.limited_by is not None:
            raise _rate_limited(tier, quota, model)
        return Admission(principal, tier, quota)

    async def check_window(self, principal: Principal) -> None:
        """Refuse who has no request left, before anybody reads what they send."""
        tier, quota = await self.quota(principal)
        if quota.requests_used >= tier.requests_per_minute:
            wait_s = quota.requests_reset_s
            raise _rate_limited(tier, replace(quota, limited_by="requests", retry_after_s=wait_s))

    async def count(self, principal: Principal) -> None:
        """Count a request that was refused after there had been work on it."""
        tier = self.tier(principal)
        most = tier.requests_per_minute
        await self._limiter.take(
            principal.account_id, "", 0, replace(tier, model_requests_per_minute=most)
        )

    async def revoke_key(self, principal: Principal, key_id: str) -> Key:
        """Stop a key everywhere within a second.

        A key may stop itself, and others that may do no more than it may.
        """
        account_id = principal.account_id
        try:
            held = {key.id: key for key in await self._accounts.keys(account_id)}
            if key_id in held and key_id != principal.key_id:
                check_hands_out(principal.policy, held[key_id].policy)
            key = await self._accounts.revoke_key(account_id, key_id)
        except StorageUnavailable as error:
            raise unavailable() from error
        if key is None:
            raise Refusal(Code.NOT_FOUND, "No such key on this account.")
        await self._invalidations.forget(account_id)
        return key


def check_model(principal: Principal, model: str) -> None:
    """Refuse a model that the key is not for; a session is for all."""
    allowed = principal.policy.models
    if allowed and model not in allowed:
        raise Refusal(
            Code.MODEL_NOT_ALLOWED,
            f"This API key may not use {model}. It may use {', '.join(sorted(allowed))}. "
            "Nothing was charged.",
            param="model",
            details={"allowed_models": sorted(allowed)},
        )


def _wrong_credentials() -> Refusal:
    return Refusal(Code.WRONG_CREDENTIALS, "The address or the password is wrong.")


def _over(principal: Principal) -> Refusal:
    until = f"{principal.until:%Y-%m-%d %H:%M} UTC"
    if principal.session_id:
        return Refusal(
            Code.EXPIRED_KEY,
            f"This session ended on {until}. Sign in again with POST /v1/auth/login.",
        )
    return Refusal(
        Code.EXPIRED_KEY,
        f"This API key, or the secret it had before its rotation, stopped to work on {until}.",
    )


def _printable(text: str) -> str:
    return "".join(letter for letter in text if letter.isprintable())[:MAX_USER_AGENT]


def _rate_limited(tier: Tier, quota: Quota, model: str = "") -> Refusal:
    reached = {
        "requests": f"{tier.requests_per_minute} requests/minute",
        "model_requests": f"{tier.model_requests_per_minute} requests/minute for {model}",
        "tokens": f"{tier.tokens_per_minute:,} tokens/minute",
    }[quota.limited_by or "requests"]
    return Refusal(
        Code.RATE_LIMITED,
        f"Rate limit exceeded ({reached}, {tier.name}). Try again in "
        f"{in_seconds(quota.retry_after_s)}. Nothing was charged.",
        retry_after_s=quota.retry_after_s,
        details={"limit": quota.limited_by, "tier": tier.level, "quota": quota, "rung": tier},
    )


def _normal(email: str) -> str:
    """One spelling per address; databases differ in how they lower what is not ASCII."""
    return email.strip().lower()


def check_password(password: str) -> None:
    """Refuse a password that is too short, or so long that hashing it would be an attack."""
    if not MIN_PASSWORD_LENGTH <= len(password) <= MAX_PASSWORD_LENGTH:
        raise Refusal(
            Code.INVALID_VALUE,
            f"The password must have {MIN_PASSWORD_LENGTH} to {MAX_PASSWORD_LENGTH} characters.",
            param="password",
        )
