"""OAuth 2.0 authorization codes with PKCE (RFC 6749 section 4.1, RFC 7636, RFC 8252).

What an application gets is an API key. It is asked for every time: no consent is remembered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kyma.errors import Code, Refusal
from kyma.flows.access import unavailable
from kyma.flows.devices import Given, check_room, mint
from kyma.identity import (
    AUTHORIZATION_CODE_S,
    CHALLENGE,
    MAX_STATE,
    VERIFIER,
    Client,
    Permission,
    challenge_of,
    is_registered,
    with_query,
)
from kyma.ports.identity import AuthorizationCodes
from kyma.ports.runtime import Chance, Digests, Invalidations
from kyma.ports.storage import Accounts, Ledger, Principal, StorageUnavailable


@dataclass(frozen=True, slots=True)
class Wish:
    """What an application asks of a person, checked."""

    client: Client
    redirect_uri: str
    challenge: str
    state: str
    scope: str


class Misasked(Exception):
    """An application's mistake that it is told by a redirect to `address`."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.address = address


class Authorize:
    """From an application's wish to its key."""

    def __init__(
        self,
        clients: Mapping[str, Client],
        codes: AuthorizationCodes,
        accounts: Accounts,
        ledger: Ledger,
        digests: Digests,
        invalidations: Invalidations,
        chance: Chance,
    ) -> None:
        self._clients = clients
        self._codes = codes
        self._accounts = accounts
        self._ledger = ledger
        self._digests = digests
        self._invalidations = invalidations
        self._chance = chance

    def checked(self, asked: Mapping[str, str]) -> Wish:
        """What is asked for.

        Raises a Refusal, for a page, as long as it is not known whom a redirect would reach;
        after that `Misasked`, for a redirect (RFC 6749 section 4.1.2.1).
        """
        client = self._clients.get(asked.get("client_id", ""))
        if client is None:
            raise Refusal(Code.INVALID_CLIENT, "No application is registered under this id.")
        uri = asked.get("redirect_uri", "")
        if not is_registered(uri, client.redirect_uris):
            raise Refusal(
                Code.INVALID_CLIENT,
                f"{client.name} is not registered with the address it wants you sent to. You "
                "were not sent there.",
                param="redirect_uri",
            )
        state = asked.get("state", "")
        if not 0 < len(state) <= MAX_STATE or not state.isprintable():
            raise _misasked(uri, "", "invalid_request", "state is required")
        if asked.get("response_type") != "code":
            raise _misasked(uri, state, "unsupported_response_type", "response_type must be code")
        challenge = asked.get("code_challenge", "")
        if asked.get("code_challenge_method") != "S256" or CHALLENGE.fullmatch(challenge) is None:
            raise _misasked(uri, state, "invalid_request", "a code_challenge by S256 is required")
        return Wish(client, uri, challenge, state, asked.get("scope", ""))

    async def allow(self, wish: Wish, person: Principal) -> str:
        """The yes of somebody who is signed in: where to send the browser.

        The code that goes along is good for a minute, and for as long as they are signed in
        anywhere.
        """
        secret, account_id = self._chance.secret("kc-"), person.account_id
        permission = Permission(wish.client.id, wish.redirect_uri, wish.challenge, account_id)
        try:
            await check_room(self._accounts, account_id)
            added = await self._codes.add(
                self._digests.digest(secret), permission, person.session_id, AUTHORIZATION_CODE_S
            )
        except StorageUnavailable as error:
            raise unavailable() from error
        if not added:
            raise Refusal(Code.FORBIDDEN, "You were signed out. Nothing was allowed.")
        return with_query(wish.redirect_uri, code=secret, state=wish.state)

    def deny(self, wish: Wish) -> str:
        """A person's no: where to send the browser."""
        return with_query(wish.redirect_uri, error="access_denied", state=wish.state)

    async def exchange(self, told: Mapping[str, str]) -> Given:
        """The key for a code, once. A second use takes the key of the first back."""
        if told.get("grant_type") != "authorization_code":
            raise Refusal(
                Code.UNSUPPORTED_GRANT_TYPE,
                "`grant_type` must be `authorization_code`.",
                param="grant_type",
            )
        client = self._clients.get(_needed(told, "client_id"))
        if client is None:
            raise Refusal(
                Code.INVALID_CLIENT,
                "No application is registered under this id.",
                param="client_id",
            )
        digest = self._digests.digest(_needed(told, "code"))
        uri, verifier = _needed(told, "redirect_uri"), _needed(told, "code_verifier")
        well_formed = VERIFIER.fullmatch(verifier) is not None
        challenge = challenge_of(verifier) if well_formed else ""
        try:
            return await self._exchanged(digest, client, uri, challenge)
        except StorageUnavailable as error:
            raise unavailable() from error

    async def _exchanged(self, digest: bytes, client: Client, uri: str, challenge: str) -> Given:
        """What is read is read before the code is spent: a failure leaves the code as it was."""
        owner = await self._codes.owner(digest)
        if owner is None:
            raise _invalid_grant()
        balance = await self._ledger.balance(owner.id)
        secret, key = mint(self._chance, self._digests)
        taken = await self._codes.take(digest, client.id, uri, challenge, client.name, key)
        if taken.replayed is not None:
            await self._invalidations.forget(taken.replayed)
        if taken.account_id is None:
            raise _invalid_grant()
        return Given(secret, owner.id, owner.email, balance.available)


def _needed(told: Mapping[str, str], name: str) -> str:
    value = told.get(name, "")
    if not value:
        raise Refusal(Code.MISSING_FIELD, f"Missing required parameter: `{name}`.", param=name)
    return value


def _misasked(uri: str, state: str, error: str, words: str) -> Misasked:
    more = {"state": state} if state else {}
    return Misasked(with_query(uri, error=error, error_description=words, **more))


def _invalid_grant() -> Refusal:
    return Refusal(
        Code.INVALID_GRANT,
        "This code is unknown, expired, was used before, or was given to another client, another "
        "redirect_uri or another code_verifier. Send the person to /v1/auth/authorize again.",
        param="code",
    )
