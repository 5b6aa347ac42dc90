"""Processes die between asking and giving: a way in gives one key or none, and a letter goes once.

As `test_dying_sales.py`, over memory: what a process may leave behind, and that whoever asks again
gets on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from adapters.mail.render import JinjaPrinter
from adapters.memory.identity import MemoryAuthorizationCodes, MemoryDeviceCodes, MemoryLinks
from adapters.memory.keys import MemoryAttempts
from adapters.memory.mail import MemoryCarrier, MemoryMails
from adapters.memory.referrals import MemoryReferrals
from adapters.memory.runtime import MemoryChance, MemoryClock, MemoryLimiter, MemoryPasswords
from kyma.calls import Usage
from kyma.errors import Code, Refusal
from kyma.flows.access import SIGN_UP_CREDIT, Access
from kyma.flows.authorize import Authorize
from kyma.flows.devices import Devices, Given
from kyma.flows.post import LEASE_S, Delivery
from kyma.flows.referrals import EVERY_S, LAG_S, Rewards
from kyma.flows.throttle import Throttle
from kyma.identity import Link, LinkKind
from kyma.ledger import Kind, Resolution
from kyma.mail import Letter, Mail, State
from kyma.money import ZERO, Usd
from kyma.referrals import REWARD, TOKENS_TO_VERIFY
from tests.builders import a_record, new_id
from tests.flows.dying import Life, Mortal, at_every_touch
from tests.flows.test_authorize import ASKED, TOLD
from tests.flows.ways import APP, Hall, refusal_of


class Process:
    """The flows of a hall as one process has them."""

    def __init__(self, hall: Hall, at: int = 0) -> None:
        self.life = Life(at)
        ports: list[Any] = [
            MemoryDeviceCodes(hall.ways), MemoryAuthorizationCodes(hall.ways), hall.accounts,
            hall.ledger, hall.invalidations, MemoryPasswords(),
        ]  # fmt: skip
        devices, codes, accounts, ledger, forget, passwords = (
            Mortal(port, self.life) for port in ports
        )
        throttle, clock = Throttle(MemoryAttempts(hall.clock.monotonic)), hall.clock
        digests, chance = hall.digests, hall.chance
        self.devices: Any = Devices(devices, accounts, ledger, throttle, digests, chance)
        self.authorize: Any = Authorize(
            {APP.id: APP}, codes, accounts, ledger, digests, forget, chance
        )
        self.access: Any = Access(
            accounts, accounts, MemoryLimiter(clock.monotonic), passwords, digests, forget, clock,
            chance, throttle,
        )  # fmt: skip

    async def run(self, work: Awaitable[Any]) -> bool:
        """As `Life.run`; a refusal is an answer, too."""

        async def answered() -> None:
            try:
                await work
            except Refusal:
                return

        return await self.life.run(answered())


async def given_by(work: Awaitable[Given]) -> Given | Code:
    try:
        return await work
    except Refusal as refusal:
        return refusal.code


def live_keys(hall: Hall, name: str) -> int:
    return sum(k.name == name and k.revoked_at is None for k in hall.store.keys.values())


async def test_an_account_is_opened_once_with_one_bonus_wherever_the_process_dies() -> None:
    async def case(at: int, where: str) -> bool:
        hall = Hall()
        process = Process(hall, at)
        died = not await process.run(process.access.register("ana@example.com", "secret-1"))
        again = Process(hall).access
        try:
            await again.register("ana@example.com", "secret-1")
        except Refusal as refusal:
            assert refusal.code is Code.EMAIL_TAKEN, where  # noqa: PT017 - either is right
        welcome = await again.login("ana@example.com", "secret-1")
        assert len(hall.store.accounts) == 1, where
        balance = await hall.ledger.balance(welcome.account.id)
        assert balance.promo == SIGN_UP_CREDIT, where
        return died

    await at_every_touch(case, least=2)


async def test_a_persons_yes_to_a_device_counts_once_wherever_the_process_dies() -> None:
    async def case(at: int, where: str) -> bool:
        hall = Hall()
        ana = await hall.person(await hall.customer())
        begun = await hall.devices.begin("a box")
        process = Process(hall, at)
        died = not await process.run(process.devices.decide(begun.user_code, ana, approved=True))
        again = Process(hall)
        await again.run(again.devices.decide(begun.user_code, ana, approved=True))
        given = await given_by(again.devices.poll(begun.device_code))
        assert isinstance(given, Given), where
        assert live_keys(hall, "a box") == 1, where
        assert await given_by(again.devices.poll(begun.device_code)) is Code.EXPIRED_TOKEN, where
        return died

    await at_every_touch(case, least=3)


async def test_a_device_gets_one_key_or_asks_anew_wherever_the_process_dies() -> None:
    async def case(at: int, where: str) -> bool:
        hall = Hall()
        ana = await hall.person(await hall.customer())
        begun = await hall.devices.begin("a box")
        await hall.devices.decide(begun.user_code, ana, approved=True)
        process = Process(hall, at)
        died = not await process.run(process.devices.poll(begun.device_code))
        given = await given_by(Process(hall).devices.poll(begun.device_code))
        # A key may be there that nobody has heard of: then there is no second one.
        assert isinstance(given, Given) or given is Code.EXPIRED_TOKEN, where
        assert live_keys(hall, "a box") == 1, where
        return died

    await at_every_touch(case, least=3)


async def test_a_code_gives_one_key_or_none_wherever_the_process_dies() -> None:
    async def case(at: int, where: str) -> bool:
        hall = Hall()
        ana = await hall.person(await hall.customer())
        address = await hall.authorize.allow(hall.authorize.checked(ASKED), ana)
        told = {**TOLD, "code": parse_qs(urlsplit(address).query)["code"][0]}
        process = Process(hall, at)
        died = not await process.run(process.authorize.exchange(told))
        given = await given_by(Process(hall).authorize.exchange(told))
        # One that was made and not heard of is taken back: its code was used twice.
        assert isinstance(given, Given) or given is Code.INVALID_GRANT, where
        assert live_keys(hall, APP.name) == isinstance(given, Given), where
        return died

    await at_every_touch(case, least=3)


async def test_a_replay_takes_the_first_key_back_wherever_the_process_dies() -> None:
    async def case(at: int, where: str) -> bool:
        hall = Hall()
        ana = await hall.person(await hall.customer())
        address = await hall.authorize.allow(hall.authorize.checked(ASKED), ana)
        told = {**TOLD, "code": parse_qs(urlsplit(address).query)["code"][0]}
        given = await hall.authorize.exchange(told)
        process = Process(hall, at)
        died = not await process.run(process.authorize.exchange(told))
        await given_by(Process(hall).authorize.exchange(told))
        assert live_keys(hall, APP.name) == 0, where
        lost = await refusal_of(hall.access.identify(given.api_key))
        assert lost.code is Code.INVALID_KEY, where
        return died

    await at_every_touch(case, least=4)


async def test_a_link_to_a_new_account_is_good_until_it_has_opened_one() -> None:
    async def case(at: int, where: str) -> bool:
        hall = Hall()
        await hall.links.send(Link(LinkKind.SIGN_UP, "ana@example.com"), Letter.SIGN_UP)
        _, token = hall.mailed(Letter.SIGN_UP)
        life = Life(at)
        links, outbox = MemoryLinks(hall.ways), hall.outbox
        hall.links._links = Mortal(links, life)
        hall.links._newcomers._outbox = Mortal(outbox, life)
        hall.access._accounts = Mortal(hall.accounts, life)
        died = not await life.run(hall.links.open_account(token, "secret-1"))
        hall.links._links, hall.access._accounts = links, hall.accounts
        hall.links._newcomers._outbox = outbox
        try:
            await hall.links.open_account(token, "secret-1")
        except Refusal as refusal:
            assert refusal.code is Code.INVALID_LINK, where  # noqa: PT017 - it was used
        welcome = await hall.access.login("ana@example.com", "secret-1")
        assert len(hall.store.accounts) == 1, where
        assert await hall.links.is_proven(welcome.account.id), where
        assert (await hall.ledger.balance(welcome.account.id)).promo == SIGN_UP_CREDIT, where
        return died

    await at_every_touch(case, least=3)


async def test_a_link_to_a_new_password_is_good_until_it_was_used() -> None:
    async def case(at: int, where: str) -> bool:
        hall = Hall()
        ana = (await hall.customer()).account
        await hall.links.send(Link(LinkKind.RESET, ana.email, ana.id), Letter.RESET)
        _, token = hall.mailed(Letter.RESET)
        life = Life(at)
        hall.links._links = Mortal(MemoryLinks(hall.ways), life)
        hall.links._passwords = Mortal(MemoryPasswords(), life)
        died = not await life.run(hall.links.reset(token, "secret-2"))
        hall.links._links = MemoryLinks(hall.ways)
        hall.links._passwords = MemoryPasswords()
        try:
            await hall.links.reset(token, "secret-2")
        except Refusal as refusal:
            assert refusal.code is Code.INVALID_LINK, where  # noqa: PT017 - it was used
        assert await hall.access.login("ana@example.com", "secret-2"), where
        with pytest.raises(Refusal):
            await hall.links.find(token, LinkKind.RESET)
        return died

    await at_every_touch(case, least=3)


# Letters

RECEIPT = Mail("receipt:1", "ada@example.com", Letter.RECEIPT, {"amount": "20"})
RESET = Mail("link:1", "ada@example.com", Letter.RESET, {"reset_url": "https://x.example/s3"})


@pytest.mark.parametrize("mail", [RECEIPT, RESET], ids=["a receipt", "a reset"])
async def test_a_letter_is_not_sent_twice_and_not_lost_in_silence(mail: Mail) -> None:
    async def case(at: int, where: str) -> bool:
        clock, carrier, life = MemoryClock(), MemoryCarrier(), Life(at)
        mails: Any = MemoryMails(clock.now)
        await mails.post(mail)
        printer, chance = JinjaPrinter("https://kyma.example"), MemoryChance()

        def delivery(life: Life) -> Callable[[], Awaitable[Any]]:
            rows: Any = Mortal(mails, life)
            carry: Any = Mortal(carrier, life)
            return Delivery(rows, printer, carry, clock, chance).round

        died = not await life.run(delivery(life)())
        clock.move(LEASE_S + 1)
        for _ in range(2):
            assert await Life().run(delivery(Life())())
        (state,) = {row.state for row in mails.rows.values()}
        assert len(carrier.bag) <= 1, where
        assert (state is State.SENT) or len(await mails.troubled()) == 1, where
        assert (state is State.SENT) <= (len(carrier.bag) == 1), where
        return died

    await at_every_touch(case, least=4)


# Referrals


async def test_both_sides_of_a_referral_are_rewarded_once_wherever_the_worker_dies() -> None:
    async def case(at: int, where: str) -> bool:
        hall = Hall()
        book = MemoryReferrals(hall.store)
        ana = (await hall.customer()).account.id
        new = await hall.customer("bob@example.com", sent_by=ana)
        await hall.prove(new)
        bob = new.account.id
        await hall.ledger.hold(hold := new_id(), bob, Usd(10), 60)
        record = a_record(bob, hold, usage=Usage(input=TOKENS_TO_VERIFY))
        await hall.ledger.resolve(Resolution(hold, Kind.SETTLE, Usd(1), ZERO), record)
        hall.clock.move(7200)

        def rewards(life: Life) -> Awaitable[Any]:
            counter: Any = Mortal(book, life)
            ledger: Any = Mortal(hall.ledger, life)
            return Rewards(counter, ledger).run(EVERY_S, LAG_S)

        life = Life(at)
        died = not await life.run(rewards(life))
        hall.clock.move(7200)
        assert await Life().run(rewards(Life()))
        grants = [entry for entry in hall.store.entries.values() if entry.promo == REWARD]
        rewarded = sorted(e.account_id for e in grants if e.reason.startswith("referral"))
        assert rewarded == sorted([ana, bob]), where
        assert await book.unpaid() == [], where
        assert (await hall.ledger.health()).sound, where
        return died

    await at_every_touch(case, least=5)
