"""Device codes (RFC 8628): a program without a browser gets a key that a person approves."""

from __future__ import annotations

from dataclasses import dataclass

from kyma.accounts import shown
from kyma.errors import Code, Refusal
from kyma.flows.access import NOBODY, Client, unavailable
from kyma.flows.throttle import Throttle
from kyma.identity import (
    DEVICE_CODE_S,
    POLL_INTERVAL_S,
    Device,
    DeviceState,
    Minted,
    Polled,
    client_name_from,
    user_code_from,
    user_code_of,
)
from kyma.keys import MAX_KEYS
from kyma.money import Usd
from kyma.ports.identity import DeviceCodes
from kyma.ports.runtime import Chance, Digests
from kyma.ports.storage import Accounts, Ledger, Principal, StorageUnavailable
from kyma.throttles import Guarded

TRIES = 8
"""Short codes drawn before giving up: with a tenth of all taken, eight in a row are 1 in 10⁸."""


@dataclass(frozen=True, slots=True)
class Begun:
    """What a device is told first; `device_code` is its secret, `user_code` the person's word."""

    device_code: str
    user_code: str
    interval_s: int = POLL_INTERVAL_S
    expires_in_s: int = DEVICE_CODE_S


@dataclass(frozen=True, slots=True)
class Given:
    """A key that was just made, whose it is and what can be spent with it. Shown once."""

    api_key: str
    account_id: str
    email: str
    available: Usd


def mint(chance: Chance, digests: Digests) -> tuple[str, Minted]:
    """A new key's secret, and what is stored of it."""
    secret = chance.secret("ky-")
    return secret, Minted(chance.id(), digests.digest(secret), *shown(secret))


async def check_room(accounts: Accounts, account_id: str) -> None:
    """Refuse another key to an account that has as many as it may."""
    if sum(key.revoked_at is None for key in await accounts.keys(account_id)) >= MAX_KEYS:
        raise Refusal(Code.FORBIDDEN, f"An account has at most {MAX_KEYS} keys. Revoke one first.")


class Devices:
    """From a device's wish to its key."""

    def __init__(
        self,
        codes: DeviceCodes,
        accounts: Accounts,
        ledger: Ledger,
        throttle: Throttle,
        digests: Digests,
        chance: Chance,
    ) -> None:
        self._codes = codes
        self._accounts = accounts
        self._ledger = ledger
        self._throttle = throttle
        self._digests = digests
        self._chance = chance

    async def begin(self, client_name: str, client: Client = NOBODY) -> Begun:
        """A code for the device and one for its person."""
        await self._throttle.take(Guarded.CODE, client.address, "")
        secret = self._chance.secret("kd-")
        digest = self._digests.digest(secret)
        name = client_name_from(client_name)
        try:
            for _ in range(TRIES):
                device = Device(user_code_of(self._chance.secret("")), name, DeviceState.PENDING)
                if await self._codes.add(digest, device, POLL_INTERVAL_S, DEVICE_CODE_S):
                    return Begun(secret, device.user_code)
        except StorageUnavailable as error:
            raise unavailable() from error
        raise Refusal(
            Code.RATE_LIMITED,
            "Too many devices are waiting for approval. Try again in a few minutes.",
            retry_after_s=60,
        )

    async def find(self, typed: str, account_id: str, client: Client = NOBODY) -> Device:
        """The device that a person was told the code of, while it waits for an answer.

        Codes that nobody waits with are counted against whoever enters them.
        """
        await self._throttle.take(Guarded.CODE, client.address, account_id)
        code = user_code_from(typed)
        try:
            device = None if code is None else await self._codes.find(code)
        except StorageUnavailable as error:
            raise unavailable() from error
        if device is None or device.state is not DeviceState.PENDING:
            raise unknown_code()
        await self._throttle.succeeded(Guarded.CODE, client.address, account_id)
        return device

    async def decide(
        self, typed: str, person: Principal, client: Client = NOBODY, *, approved: bool
    ) -> Device:
        """The answer of somebody who is signed in; the first one counts."""
        account_id = person.account_id
        device = await self.find(typed, account_id, client)
        try:
            if approved:
                await check_room(self._accounts, account_id)
            done = await self._codes.decide(
                device.user_code, account_id, person.session_id, approved=approved
            )
        except StorageUnavailable as error:
            raise unavailable() from error
        if not done:
            raise unknown_code()
        return device

    async def poll(self, device_code: str) -> Given:
        """The device's key, once; or a refusal that says whether to ask again.

        What is read is read before the code is spent: a failure leaves the code as it was.
        """
        digest = self._digests.digest(device_code)
        try:
            polled = await self._codes.poll(digest)
            if polled is None or polled.state is DeviceState.USED:
                raise expired()
            check_approved(polled)
            balance = await self._ledger.balance(polled.account_id)
            secret, key = mint(self._chance, self._digests)
            if await self._codes.spend(digest, key) is None:
                raise expired()
        except StorageUnavailable as error:
            raise unavailable() from error
        return Given(secret, polled.account_id, polled.email, balance.available)


def check_approved(polled: Polled) -> None:
    """Refuse while nobody has approved, in the words of RFC 8628 section 3.5."""
    if polled.state is DeviceState.DENIED:
        raise Refusal(Code.ACCESS_DENIED, "The request was denied on the approval page.")
    if polled.state is DeviceState.PENDING:
        code = Code.SLOW_DOWN if polled.too_fast else Code.AUTHORIZATION_PENDING
        words = "Nobody has approved this device yet."
        if polled.too_fast:
            words = f"Asked too soon. {words}"
        raise Refusal(
            code,
            f"{words} Ask again in {polled.interval_s} seconds.",
            retry_after_s=polled.interval_s,
            details={"interval": polled.interval_s},
        )


def expired() -> Refusal:
    """The refusal for a device code that is unknown, overdue, used, or ended by a sign-out."""
    return Refusal(
        Code.EXPIRED_TOKEN,
        "This device code is unknown, expired or was used. Ask for another with "
        "POST /v1/auth/device/code.",
        param="device_code",
    )


def unknown_code() -> Refusal:
    """The refusal for a person's code that nobody waits with."""
    return Refusal(
        Code.NOT_FOUND,
        "No device waits with this code. It may be mistyped, expired or answered already.",
        param="code",
    )
