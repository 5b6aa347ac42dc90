"""What follows a registration, and what never spoils one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from adapters.memory.mail import MemoryMails
from adapters.memory.referrals import MemoryReferrals
from adapters.memory.runtime import MemoryChance
from adapters.memory.storage import MemoryAccounts, MemoryStore
from kyma.accounts import Account
from kyma.errors import Code, Refusal
from kyma.flows.access import Welcome
from kyma.flows.newcomers import Newcomers
from kyma.flows.referrals import Referrals
from kyma.mail import Letter, Mail
from kyma.money import ZERO
from kyma.ports.storage import StorageUnavailable
from kyma.referrals import Referrer
from tests.builders import a_key, a_session, an_account


class Hall:
    """Newcomers over memory."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.accounts = MemoryAccounts(self.store)
        self.mails = MemoryMails()
        self.book = MemoryReferrals(self.store)
        self.referrals = Referrals(self.book, MemoryChance())
        self.newcomers = Newcomers(self.referrals, self.mails)

    async def arrived(self, email: str) -> Account:
        account = an_account(email)
        assert await self.accounts.register(account, a_key(account), a_session(account), ZERO)
        return account


@pytest.fixture
def hall() -> Hall:
    return Hall()


async def test_a_newcomer_gets_a_letter_that_names_the_credit(hall: Hall) -> None:
    account = await hall.arrived("ada@example.com")
    await hall.newcomers.greet(Welcome(account, "ky-x", "ks-x"))
    (letter,) = hall.mails.rows.values()
    assert (letter.letter, letter.to, letter.facts) == (
        Letter.WELCOME,
        "ada@example.com",
        {"credit": "0.5"},
    )
    await hall.newcomers.greet(Welcome(account, "ky-x", "ks-x"))
    assert len(hall.mails.rows) == 1


@pytest.mark.parametrize("is_taken", [False, True])
async def test_nobody_is_welcomed_by_an_address_that_is_not_their_own_yet(
    hall: Hall, is_taken: bool
) -> None:
    account = replace(await hall.arrived("ada@example.com"), bound=False)
    await hall.newcomers.greet(Welcome(account, "ky-x", "ks-x", is_taken))
    assert not hall.mails.rows


async def test_a_code_leads_to_whoever_gave_it(hall: Hall) -> None:
    ada = await hall.arrived("ada@example.com")
    code = (await hall.referrals.mine(ada.id)).code
    assert await hall.newcomers.sender("grace@example.com", code) == ada.id
    assert await hall.newcomers.sender("grace@example.com", None) == ""


class MailsAway:
    """An outbox whose database is gone."""

    async def post(self, mail: Mail) -> bool:
        raise StorageUnavailable("away")


class BookAway(MemoryReferrals):
    """A book whose database is gone."""

    async def owner(self, code: str) -> Referrer | None:
        raise StorageUnavailable("away")


async def test_a_letter_that_cannot_be_posted_spoils_no_registration(hall: Hall) -> None:
    account = await hall.arrived("ada@example.com")
    newcomers = Newcomers(hall.referrals, MailsAway())
    await newcomers.greet(Welcome(account, "ky-x", "ks-x"))


async def test_who_brings_a_code_while_nobody_can_read_it_is_asked_to_come_again(
    hall: Hall,
) -> None:
    newcomers = Newcomers(Referrals(BookAway(hall.store), MemoryChance()), hall.mails)
    with pytest.raises(Refusal) as refused:
        await newcomers.sender("ada@example.com", "0123456789")
    assert refused.value.code is Code.STORAGE_UNAVAILABLE
