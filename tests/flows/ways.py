"""The ways in over memory adapters: everything that the tests of their flows share."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from adapters.memory.identity import (
    MemoryAuthorizationCodes,
    MemoryDeviceCodes,
    MemoryIdentities,
    MemoryLinks,
    MemoryWays,
)
from adapters.memory.keys import MemoryAttempts, MemorySignIns
from adapters.memory.mail import MemoryMails
from adapters.memory.referrals import MemoryReferrals
from adapters.memory.runtime import (
    MemoryChance,
    MemoryClock,
    MemoryInvalidations,
    MemoryLimiter,
    MemoryPasswords,
)
from adapters.memory.storage import MemoryAccounts, MemoryLedger, MemoryStore
from adapters.system import HmacDigests
from kyma.errors import Refusal
from kyma.flows.access import Access, Welcome
from kyma.flows.access import Client as Caller
from kyma.flows.authorize import Authorize
from kyma.flows.devices import Devices
from kyma.flows.federation import Federation
from kyma.flows.links import MailLinks
from kyma.flows.newcomers import Newcomers
from kyma.flows.referrals import Referrals
from kyma.flows.sessions import Sessions
from kyma.flows.throttle import Throttle
from kyma.identity import Claims, Client
from kyma.mail import LINK_OF, Letter
from kyma.money import ZERO
from kyma.ports.identity import IdentityRefused, IdentityUnavailable
from kyma.ports.storage import Principal

BASE = "https://kyma.example"
APP = Client("app", "An app", ("https://app.example/cb", "http://127.0.0.1/cb"))
HERE = Caller("203.0.113.7", "a browser")


@dataclass
class ScriptedProvider:
    """Vouches for whom it is told to, and for a code only in exchange for what asked for it."""

    says: Claims | None = None
    away: bool = False
    asked: dict[str, str] = field(default_factory=dict)
    got: list[tuple[str, str, str]] = field(default_factory=list)

    async def address(self, redirect_uri: str, state: str, nonce: str, verifier: str) -> str:
        if self.away:
            raise IdentityUnavailable("away")
        self.asked = {"state": state, "nonce": nonce, "verifier": verifier}
        return f"https://id.example/?state={state}"

    async def claims(self, code: str, redirect_uri: str, nonce: str, verifier: str) -> Claims:
        if self.away:
            raise IdentityUnavailable("away")
        self.got.append((code, nonce, verifier))
        if self.says is None or (nonce, verifier) != (self.asked["nonce"], self.asked["verifier"]):
            raise IdentityRefused("no")
        return self.says


class Hall:
    """All four flows on one store, one clock and one outbox."""

    def __init__(self, *, confirms: bool = False) -> None:
        self.clock = MemoryClock()
        self.store = MemoryStore(now=self.clock.now)
        self.ways = MemoryWays(self.store)
        self.accounts, self.ledger = MemoryAccounts(self.store), MemoryLedger(self.store)
        self.identities = MemoryIdentities(self.ways)
        self.outbox, self.invalidations = MemoryMails(self.clock.now), MemoryInvalidations()
        self.chance, self.digests = MemoryChance(), HmacDigests("p" * 32)
        self.provider = ScriptedProvider()
        throttle = Throttle(MemoryAttempts(self.clock.monotonic))
        passwords, links = MemoryPasswords(), MemoryLinks(self.ways)
        newcomers = Newcomers(Referrals(MemoryReferrals(self.store), self.chance), self.outbox)
        self.newcomers = newcomers
        self.access = Access(
            self.accounts, self.accounts, MemoryLimiter(self.clock.monotonic), passwords,
            self.digests, self.invalidations, self.clock, self.chance, throttle, confirms=confirms,
        )  # fmt: skip
        self.devices = Devices(
            MemoryDeviceCodes(self.ways), self.accounts, self.ledger, throttle, self.digests,
            self.chance,
        )  # fmt: skip
        self.sessions = Sessions(MemorySignIns(self.ways), self.invalidations)
        self.authorize = Authorize(
            {APP.id: APP}, MemoryAuthorizationCodes(self.ways), self.accounts, self.ledger,
            self.digests, self.invalidations, self.chance,
        )  # fmt: skip
        self.links = MailLinks(
            BASE, self.accounts, links, self.identities, self.access, throttle, passwords,
            self.outbox, newcomers, self.digests, self.invalidations, self.clock, self.chance,
        )  # fmt: skip
        self.federation = Federation(
            self.provider, f"{BASE}/back", self.identities, self.accounts, links, self.links,
            self.access, newcomers, self.digests, self.invalidations, self.clock, self.chance,
        )  # fmt: skip

    async def customer(self, email: str = "ana@example.com", *, sent_by: str = "") -> Welcome:
        return await self.access.register(email, "secret-1", sent_by=sent_by)

    async def person(self, welcome: Welcome) -> Principal:
        """Whoever has the session that they were given."""
        return await self.access.identify(welcome.session_token)

    async def prove(self, welcome: Welcome) -> None:
        """Its owner reads mail at the address."""
        account = welcome.account
        assert await self.identities.prove(account.id, account.email, ZERO)

    def letters(self, letter: Letter | None = None) -> list[str]:
        """To whom there is mail."""
        return [row.to for row in self.outbox.rows.values() if letter in (None, row.letter)]

    def mailed(self, letter: Letter) -> tuple[str, str]:
        """Path and token of the link in the latest such letter."""
        row = [row for row in self.outbox.rows.values() if row.letter is letter][-1]
        url = row.facts[LINK_OF[letter]]
        assert url.startswith(f"{BASE}/")
        parts = urlsplit(url)
        return parts.path, parse_qs(parts.query)["token"][0]


async def refusal_of(work: object) -> Refusal:
    """The refusal that this ends in."""
    try:
        await work
    except Refusal as refusal:
        return refusal
    raise AssertionError("it was not refused")
