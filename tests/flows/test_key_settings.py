"""Keys as their owner handles them, and what each may then do at the door."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from adapters.memory.identity import MemoryWays
from adapters.memory.keys import MemoryAttempts, MemoryKeys, MemorySignIns
from adapters.memory.runtime import (
    MemoryChance,
    MemoryClock,
    MemoryInvalidations,
    MemoryLimiter,
    MemoryPasswords,
)
from adapters.memory.storage import MemoryAccounts, MemoryStore
from adapters.system import HmacDigests
from kyma.calls import Size
from kyma.errors import Code, Refusal
from kyma.flows.access import NOBODY, Access, Client
from kyma.flows.keys import DEFAULT_POLICY, Issued, KeySettings, Wish
from kyma.flows.sessions import Sessions
from kyma.flows.throttle import Throttle
from kyma.keys import MAX_KEYS, UNRESTRICTED, Policy, Scope, network_from
from kyma.money import Usd, usd
from kyma.ports.storage import Principal
from kyma.throttles import LIMITS, Guarded

SMALL = Size(10, 20, 30)
OFFICE = "203.0.113.9"


@dataclass
class House:
    access: Access
    keys: KeySettings
    sessions: Sessions
    accounts: MemoryAccounts
    store: MemoryStore
    clock: MemoryClock
    told: MemoryInvalidations
    token: str = ""

    async def owner(self) -> Principal:
        return await self.access.identify(self.token)

    async def issue(self, policy: Policy = DEFAULT_POLICY, name: str = "a key") -> Issued:
        return await self.keys.create(await self.owner(), Wish(name, policy))

    async def code(self, secret: str, scope: Scope | None, address: str | None = None) -> object:
        try:
            await self.access.identify(secret, scope, address)
        except Refusal as refusal:
            return refusal.code
        return "in"


@pytest.fixture
async def house() -> House:
    return await a_house()


async def a_house(*, confirms: bool = False) -> House:
    clock, chance, digests = MemoryClock(), MemoryChance(), HmacDigests("p" * 32)
    store, told = MemoryStore(now=clock.now), MemoryInvalidations()
    accounts = MemoryAccounts(store)
    access = Access(
        accounts,
        accounts,
        MemoryLimiter(clock.monotonic),
        MemoryPasswords(),
        digests,
        told,
        clock,
        chance,
        Throttle(MemoryAttempts(clock.monotonic)),
        confirms=confirms,
    )
    keys = KeySettings(accounts, MemoryKeys(store), told, digests, clock, chance)
    house = House(
        access, keys, Sessions(MemorySignIns(MemoryWays(store)), told), accounts, store, clock, told
    )
    house.token = (await access.register("ana@example.com", "secret-1")).session_token
    return house


async def code_of(work: object) -> Code:
    with pytest.raises(Refusal) as caught:
        await work
    return caught.value.code


# Making and changing keys.


async def test_a_key_that_is_made_without_saying_asks_models_and_reads_the_account(
    house: House,
) -> None:
    issued = await house.issue()
    assert issued.secret.startswith("ky-")
    assert (issued.key.prefix, issued.key.last4) == (issued.secret[:7], issued.secret[-4:])
    seen = {scope: await house.code(issued.secret, scope) for scope in Scope}
    assert seen == {
        Scope.INFERENCE: "in",
        Scope.ACCOUNT_READ: "in",
        Scope.KEYS_MANAGE: Code.SCOPE_MISSING,
        Scope.BILLING: Code.SCOPE_MISSING,
    }


async def test_where_no_scope_is_named_a_key_needs_every_one(house: House) -> None:
    whole, part = await house.issue(UNRESTRICTED), await house.issue()
    assert await house.code(whole.secret, None) == "in"
    assert await house.code(house.token, None) == "in"
    assert await house.code(part.secret, None) is Code.SCOPE_MISSING


async def test_a_change_changes_what_it_names_and_tells_every_process(house: House) -> None:
    issued = await house.issue(replace(DEFAULT_POLICY, monthly_cap=usd("5")))
    house.told.forgotten.clear()
    changed = await house.keys.change(
        await house.owner(), issued.key.id, {"name": "new", "models": frozenset({"big"})}
    )
    assert changed.name == "new"
    assert changed.policy == replace(issued.key.policy, models=frozenset({"big"}))
    assert house.told.forgotten == [issued.key.account_id]


@pytest.mark.parametrize(
    "changed",
    [
        {"name": ""},
        {"name": "x" * 101},
        {"name": "a\nb"},
        {"scopes": frozenset()},
        {"monthly_cap": Usd(-1)},
        {"monthly_cap": usd("1000001")},
        {"replay_minutes": 11},
        {"replay_minutes": -1},
        {"expires_at": MemoryClock().now()},
    ],
)
async def test_a_key_cannot_be_what_no_key_can_be(house: House, changed: dict[str, object]) -> None:
    issued = await house.issue()
    owner = await house.owner()
    assert await code_of(house.keys.change(owner, issued.key.id, changed)) is Code.INVALID_VALUE
    assert house.store.keys[issued.key.id] == issued.key


async def test_a_key_that_is_over_can_still_be_renamed_and_given_more_time(house: House) -> None:
    end = house.clock.now() + timedelta(hours=1)
    issued = await house.issue(replace(DEFAULT_POLICY, expires_at=end))
    house.clock.move(7200)
    assert await house.code(issued.secret, Scope.INFERENCE) is Code.EXPIRED_KEY
    owner = await house.owner()
    await house.keys.change(owner, issued.key.id, {"name": "old"})
    await house.keys.change(owner, issued.key.id, {"expires_at": None})
    assert await house.code(issued.secret, Scope.INFERENCE) == "in"


async def test_an_account_has_only_so_many_keys(house: House) -> None:
    for _ in range(MAX_KEYS - 1):
        issued = await house.issue()
    assert await code_of(house.issue()) is Code.FORBIDDEN
    await house.access.revoke_key(await house.owner(), issued.key.id)
    assert await house.issue()


CAPPED = Policy(frozenset({Scope.KEYS_MANAGE}), monthly_cap=usd("1"))
MANAGER = Policy(frozenset({Scope.KEYS_MANAGE, Scope.INFERENCE}))


@pytest.mark.parametrize("policy", [CAPPED, MANAGER], ids=["capped", "of few scopes"])
async def test_a_key_stops_nobody_who_may_do_more_than_it(house: House, policy: Policy) -> None:
    """Somebody who finds it shall not lock the account's owner out."""
    master, small = await house.issue(UNRESTRICTED), await house.issue(policy)
    held = await house.access.identify(small.secret, Scope.KEYS_MANAGE)
    assert await code_of(house.access.revoke_key(held, master.key.id)) is Code.FORBIDDEN
    owner = await house.owner()
    (session,) = await house.sessions.of(owner.account_id)
    for work in (house.sessions.end(held, session.id), house.sessions.end_all(held)):
        assert await code_of(work) is Code.FORBIDDEN
    assert await house.sessions.of(owner.account_id) == [session]
    assert await house.access.identify(master.secret)


async def test_a_key_stops_itself_and_those_that_may_do_no_more(house: House) -> None:
    child = await house.issue(Policy(frozenset({Scope.INFERENCE}), monthly_cap=usd("1")))
    for policy, others in ((MANAGER, [child]), (CAPPED, [])):
        small = await house.issue(policy)
        held = await house.access.identify(small.secret, Scope.KEYS_MANAGE)
        for issued in (*others, small):
            assert (await house.access.revoke_key(held, issued.key.id)).revoked_at
            assert await house.code(issued.secret, Scope.INFERENCE) is Code.INVALID_KEY


async def test_a_key_hands_out_no_more_than_it_has(house: House) -> None:
    strong = (await house.issue(UNRESTRICTED)).key
    manager = await house.issue(Policy(frozenset({Scope.KEYS_MANAGE, Scope.INFERENCE})))
    held = await house.access.identify(manager.secret, Scope.KEYS_MANAGE)
    fitting = Wish("child", Policy(frozenset({Scope.INFERENCE})))
    child = await house.keys.create(held, fitting)
    assert await code_of(house.keys.create(held, Wish("x", UNRESTRICTED))) is Code.FORBIDDEN
    assert await code_of(house.keys.rotate(held, strong.id, 0)) is Code.FORBIDDEN
    assert await code_of(house.keys.change(held, strong.id, {"name": "x"})) is Code.FORBIDDEN
    wider = {"scopes": frozenset({Scope.BILLING})}
    assert await code_of(house.keys.change(held, child.key.id, wider)) is Code.FORBIDDEN
    assert await house.keys.rotate(held, child.key.id, 0)


async def test_who_is_remembered_after_the_end_makes_and_rotates_no_key(house: House) -> None:
    mine, owner = await house.issue(), await house.owner()
    manager = await house.issue(Policy(frozenset({Scope.KEYS_MANAGE, Scope.INFERENCE})))
    held = await house.access.identify(manager.secret, Scope.KEYS_MANAGE)
    await house.access.revoke_key(owner, manager.key.id)
    await house.sessions.end_all(owner)
    small = Wish("late", Policy(frozenset({Scope.INFERENCE})))
    for late in (owner, held):
        assert await code_of(house.keys.create(late, small)) is Code.FORBIDDEN
        assert await code_of(house.keys.rotate(late, mine.key.id, 0)) is Code.NOT_FOUND
        assert await code_of(house.keys.change(late, mine.key.id, {"name": "x"})) is Code.NOT_FOUND
    names = [key.name for key in await house.accounts.keys(owner.account_id)]
    assert sorted(names) == ["a key", "a key", "default"]


async def test_a_key_with_limits_cannot_free_itself_of_them(house: House) -> None:
    capped = await house.issue(replace(UNRESTRICTED, monthly_cap=usd("1")))
    held = await house.access.identify(capped.secret, Scope.KEYS_MANAGE)
    lifted = house.keys.change(held, capped.key.id, {"monthly_cap": None})
    assert await code_of(lifted) is Code.FORBIDDEN
    assert await code_of(house.keys.create(held, Wish("x"))) is Code.FORBIDDEN


async def test_nobody_touches_anothers_key(house: House) -> None:
    issued = await house.issue()
    stranger = await house.access.register("bob@example.com", "secret-2")
    bob = await house.access.identify(stranger.session_token)
    assert await code_of(house.keys.change(bob, issued.key.id, {"name": "x"})) is Code.NOT_FOUND
    assert await code_of(house.keys.rotate(bob, issued.key.id, 0)) is Code.NOT_FOUND
    assert house.store.keys[issued.key.id] == issued.key


# Rotation.


async def test_after_a_rotation_both_secrets_work_until_the_overlap_is_over(house: House) -> None:
    first = await house.issue()
    second = await house.keys.rotate(await house.owner(), first.key.id, 24)
    assert second.key.id == first.key.id
    for secret in (first.secret, second.secret):
        assert await house.code(secret, Scope.INFERENCE) == "in"
    house.clock.move(24 * 3600)
    assert await house.code(first.secret, Scope.INFERENCE) is Code.EXPIRED_KEY
    assert await house.code(second.secret, Scope.INFERENCE) == "in"


async def test_without_an_overlap_the_old_secret_stops_at_once(house: House) -> None:
    first = await house.issue()
    second = await house.keys.rotate(await house.owner(), first.key.id, 0)
    assert await house.code(first.secret, Scope.INFERENCE) is Code.INVALID_KEY
    assert await house.code(second.secret, Scope.INFERENCE) == "in"


async def test_a_second_rotation_ends_the_oldest_secret(house: House) -> None:
    first = await house.issue()
    owner = await house.owner()
    second = await house.keys.rotate(owner, first.key.id, 168)
    third = await house.keys.rotate(owner, first.key.id, 168)
    seen = [await house.code(one.secret, Scope.INFERENCE) for one in (first, second, third)]
    assert seen == [Code.INVALID_KEY, "in", "in"]


@pytest.mark.parametrize("hours", [-1, 169])
async def test_an_overlap_has_bounds(house: House, hours: int) -> None:
    issued = await house.issue()
    rotation = house.keys.rotate(await house.owner(), issued.key.id, hours)
    assert await code_of(rotation) is Code.INVALID_VALUE


# At the door.


@pytest.mark.parametrize(
    ("address", "seen"),
    [
        (OFFICE, "in"),
        ("::ffff:203.0.113.9", "in"),
        ("198.51.100.7", Code.ADDRESS_NOT_ALLOWED),
        (None, Code.ADDRESS_NOT_ALLOWED),
    ],
)
async def test_a_key_with_networks_is_used_from_there_alone(
    house: House, address: str | None, seen: object
) -> None:
    policy = replace(DEFAULT_POLICY, networks=(network_from("203.0.113.0/24"),))
    issued = await house.issue(policy)
    assert await house.code(issued.secret, Scope.INFERENCE, address) == seen


async def test_a_key_for_some_models_is_refused_the_others_by_name(house: House) -> None:
    issued = await house.issue(replace(DEFAULT_POLICY, models=frozenset({"big", "small"})))
    principal = await house.access.identify(issued.secret, Scope.INFERENCE)
    assert await house.access.admit(principal, "big", SMALL)
    with pytest.raises(Refusal) as caught:
        await house.access.admit(principal, "other", SMALL)
    assert caught.value.code is Code.MODEL_NOT_ALLOWED
    assert caught.value.details == {"allowed_models": ["big", "small"]}
    assert (await house.access.quota(principal))[1].requests_used == 1


# Sessions.


async def test_signing_out_ends_the_session_that_asks_and_no_other(house: House) -> None:
    other = await house.access.login("ana@example.com", "secret-1", Client(OFFICE, "curl/8\x00.9"))
    owner = await house.owner()
    live = await house.sessions.of(owner.account_id)
    assert {session.user_agent for session in live} == {"", "curl/8.9"}
    await house.sessions.log_out(owner)
    assert await house.code(house.token, None) is Code.INVALID_KEY
    assert await house.code(other.session_token, None) == "in"
    assert house.told.forgotten == [owner.account_id]


async def test_a_key_is_no_session_that_could_be_signed_out_of(house: House) -> None:
    issued = await house.issue(UNRESTRICTED)
    principal = await house.access.identify(issued.secret)
    assert await code_of(house.sessions.log_out(principal)) is Code.FORBIDDEN


async def test_all_sessions_end_but_the_one_that_is_kept(house: House) -> None:
    other = await house.access.login("ana@example.com", "secret-1")
    owner = await house.owner()
    kept = HmacDigests("p" * 32).digest(other.session_token)
    assert await house.sessions.end_all(owner, kept) == 1
    assert await house.code(house.token, None) is Code.INVALID_KEY
    assert await house.code(other.session_token, None) == "in"
    assert await house.sessions.end_all(owner) == 1
    assert await house.code(other.session_token, None) is Code.INVALID_KEY


async def test_an_unknown_session_cannot_be_ended(house: House) -> None:
    owner = await house.owner()
    assert await code_of(house.sessions.end(owner, "0" * 32)) is Code.NOT_FOUND


# The throttle.


async def test_guessing_a_password_ends_after_so_many_tries_even_with_the_right_one(
    house: House,
) -> None:
    limit = LIMITS[Guarded.LOGIN]
    for turn in range(limit.per_subject):
        who = Client(f"198.51.100.{turn}")
        guess = house.access.login("ana@example.com", f"wrong-{turn}", who)
        assert await code_of(guess) is Code.WRONG_CREDENTIALS
    right = house.access.login("Ana@Example.com ", "secret-1", Client(OFFICE))
    assert await code_of(right) is Code.TOO_MANY_ATTEMPTS
    house.clock.move(limit.window_s)
    assert await house.access.login("ana@example.com", "secret-1", Client(OFFICE))


async def test_an_address_without_an_account_is_throttled_like_any_other(house: House) -> None:
    refusals = []
    for _ in range(LIMITS[Guarded.LOGIN].per_subject + 1):
        with pytest.raises(Refusal) as caught:
            await house.access.login("nobody@example.com", "secret-1")
        refusals.append(caught.value)
    assert [refusal.code for refusal in refusals[-2:]] == [
        Code.WRONG_CREDENTIALS,
        Code.TOO_MANY_ATTEMPTS,
    ]
    assert "nobody" not in refusals[-1].message


async def test_signing_in_rightly_is_never_throttled(house: House) -> None:
    for _ in range(LIMITS[Guarded.LOGIN].per_address + 1):
        assert await house.access.login("ana@example.com", "secret-1", Client(OFFICE))


async def test_one_client_opens_only_so_many_accounts(house: House) -> None:
    limit = LIMITS[Guarded.REGISTER]
    for turn in range(limit.per_address):
        await house.access.register(f"{turn}@example.com", "secret-1", Client(OFFICE))
    more = house.access.register("more@example.com", "secret-1", Client(OFFICE))
    assert await code_of(more) is Code.TOO_MANY_ATTEMPTS
    assert await house.access.register("more@example.com", "secret-1", Client("198.51.100.7"))


# Addresses that must be confirmed.


async def test_where_addresses_are_confirmed_a_taken_one_is_registered_like_any_other() -> None:
    house = await a_house(confirms=True)
    owner = await house.owner()
    account = house.store.accounts[owner.account_id]
    house.store.accounts[account.id] = replace(account, bound=True)  # its owner confirmed it

    async def outcome(address: str) -> dict[str, object]:
        welcome = await house.access.register(address, "secret-9", NOBODY)
        assert welcome.api_key is not None
        login = await code_of(house.access.login(address, "secret-9"))
        return {
            "key": await house.code(welcome.api_key, Scope.INFERENCE),
            "session": await house.code(welcome.session_token, None),
            "login": login,
            "credit": house.store.balances[welcome.account.id].available,
        }

    taken, free = await outcome("ana@example.com"), await outcome("bob@example.com")
    assert (
        taken
        == free
        == {
            "key": "in",
            "session": "in",
            "login": Code.WRONG_CREDENTIALS,
            "credit": Usd(0),
        }
    )
    assert await house.access.login("ana@example.com", "secret-1")


async def test_only_the_letter_may_know_that_an_address_is_taken() -> None:
    house = await a_house(confirms=True)
    account = house.store.accounts[(await house.owner()).account_id]
    house.store.accounts[account.id] = replace(account, bound=True)
    assert (await house.access.register("ana@example.com", "secret-9")).is_taken
    assert not (await house.access.register("bob@example.com", "secret-9")).is_taken
