"""Idempotency keys: what a repetition gets, and that nothing is ever charged twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from adapters.memory.requests import MemoryClaims, MemoryReceipts
from adapters.memory.storage import MemoryAccounts, MemoryLedger, MemoryStore
from adapters.memory.vault import MemoryVault
from adapters.vault import AesVault
from kyma.errors import Code, Refusal
from kyma.flows.once import Claim, Once, Replay
from kyma.generations import Generation, Status
from kyma.idempotency import (
    KEEP_S,
    MAX_ANSWER_BYTES,
    Decision,
    Fate,
    KnownClaim,
    State,
    StoredAnswer,
    checked_key,
    decide,
    fingerprint_of,
    unpacked,
    wait_s,
)
from kyma.ledger import Hold, Kind, Outcome, Resolution
from kyma.money import Usd, usd
from kyma.ports.runtime import Vault
from kyma.ports.storage import Principal, StorageUnavailable
from tests.builders import a_key, a_record, a_session, an_account, new_id

TTL_S = 720
CREDIT = usd("1")
HOLD = usd("0.10")
BILL = usd("0.03")
PATH = "/v1/chat/completions"
BODY = fingerprint_of("POST", PATH, b'{"model":"best"}')
OTHER = fingerprint_of("POST", PATH, b'{"model":"fast"}')
SECRET = "ky-0123456789abcdef0123"
SSE = StoredAnswer(200, "text/event-stream; charset=utf-8", b"data: {}\n\ndata: [DONE]\n\n\xff")


@dataclass
class World:
    """A customer, the ledger, and the flow over memory adapters."""

    principal: Principal
    store: MemoryStore
    ledger: MemoryLedger
    claims: MemoryClaims
    once: Once
    offset: list[float] = field(default_factory=lambda: [0.0])

    async def begin(self, *, key: str = "order-17", body: bytes = BODY, **changes: Any) -> Any:
        """A request that begins; its id is new."""
        who = replace(self.principal, **changes.pop("principal", {}))
        return await self.once.begin(
            who, key, body, changes.pop("id", new_id()), TTL_S, changes.pop("secret", SECRET)
        )

    async def claim(self, **changes: Any) -> Claim:
        begun = await self.begin(**changes)
        assert isinstance(begun, Claim)
        return begun

    async def replay(self, **changes: Any) -> Replay:
        begun = await self.begin(**changes)
        assert isinstance(begun, Replay)
        return begun

    async def hold(self, claim: Claim) -> Hold:
        held = await self.ledger.hold(claim.request_id, claim.account_id, HOLD, TTL_S)
        assert held.hold is not None
        return held.hold

    async def end(self, claim: Claim, kind: Kind, outcome: str = "ok") -> Outcome:
        bill = BILL if kind is Kind.SETTLE else Usd(0)
        record = a_record(claim.account_id, claim.request_id, outcome=outcome)
        resolved = await self.ledger.resolve(Resolution(claim.request_id, kind, bill), record)
        return resolved.outcome

    async def served(self, **changes: Any) -> Claim:
        """A request that was charged, and said so."""
        claim = await self.claim(**changes)
        await self.hold(claim)
        assert await self.end(claim, Kind.SETTLE) is Outcome.DONE
        return claim

    def pass_time(self, seconds: float) -> None:
        self.offset[0] += seconds

    async def spent(self) -> Usd:
        return Usd(CREDIT - (await self.ledger.balance(self.principal.account_id)).posted)


async def a_world(vault: Vault | None = None) -> World:
    offset = [0.0]
    store = MemoryStore(now=lambda: datetime.now(UTC) + timedelta(seconds=offset[0]))
    accounts, account = MemoryAccounts(store), an_account()
    key = a_key(account)
    await accounts.register(account, key, a_session(account), CREDIT)
    principal = await accounts.principal(key.digest)
    assert principal is not None
    ledger, claims = MemoryLedger(store), MemoryClaims(store)
    once = Once(claims, MemoryReceipts(store), ledger, vault or MemoryVault())
    return World(principal, store, ledger, claims, once, offset)


async def refused(work: Awaitable[Any]) -> Refusal:
    with pytest.raises(Refusal) as caught:
        await work
    return caught.value


async def test_a_new_key_is_claimed() -> None:
    world = await a_world()
    claim = await world.claim(id="ab" * 16)
    assert (claim.account_id, claim.request_id) == (world.principal.account_id, "ab" * 16)


async def test_a_finished_request_is_replayed_as_its_receipt_and_charged_once() -> None:
    world = await a_world()
    claim = await world.served()
    await world.once.finish(claim, None)
    for _ in range(3):
        replay = await world.replay()
        assert (replay.request_id, replay.answer) == (claim.request_id, None)
        assert replay.generation is not None
        assert replay.generation.status is Status.COMPLETED
        assert replay.generation.settled == BILL
    assert await world.spent() == BILL


@pytest.mark.parametrize("state", ["running", "finished", "dead"])
async def test_another_body_under_the_same_key_is_refused_whatever_became_of_the_first(
    state: str,
) -> None:
    world = await a_world()
    claim = await world.claim()
    if state == "finished":
        await world.once.finish(claim, None)
    if state == "dead":
        world.pass_time(TTL_S + 1)
    refusal = await refused(world.begin(body=OTHER))
    assert refusal.code is Code.IDEMPOTENCY_KEY_REUSED
    assert (refusal.charged, refusal.param) == (False, "Idempotency-Key")


async def test_another_account_may_use_the_same_key() -> None:
    world = await a_world()
    await world.claim()
    await world.claim(body=OTHER, principal={"account_id": new_id()})


async def test_another_key_of_the_account_shares_its_idempotency_keys() -> None:
    world = await a_world()
    claim = await world.served()
    await world.once.finish(claim, None)
    replay = await world.replay(principal={"key_id": new_id()}, secret="ky-another-one-4567890")
    assert replay.request_id == claim.request_id


async def test_while_the_first_runs_a_repetition_is_told_when_to_ask_again() -> None:
    world = await a_world()
    claim = await world.claim()
    refusal = await refused(world.begin())
    assert (refusal.code, refusal.retry_after_s) == (Code.IDEMPOTENCY_IN_PROGRESS, 1.0)
    await world.hold(claim)
    world.pass_time(7)
    refusal = await refused(world.begin())
    assert refusal.retry_after_s == pytest.approx(7, abs=0.5)


async def test_of_fifty_at_once_one_works_and_is_charged() -> None:
    world = await a_world()
    begun = await asyncio.gather(*(world.begin() for _ in range(50)), return_exceptions=True)
    claims = [one for one in begun if isinstance(one, Claim)]
    refusals = [one for one in begun if isinstance(one, Refusal)]
    assert (len(claims), len(refusals)) == (1, 49)
    assert {refusal.code for refusal in refusals} == {Code.IDEMPOTENCY_IN_PROGRESS}


@pytest.mark.parametrize("held", [False, True])
async def test_a_request_that_failed_without_charge_may_be_tried_again(held: bool) -> None:
    world = await a_world()
    claim = await world.claim()
    if held:
        await world.hold(claim)
        await world.end(claim, Kind.REFUND, "provider_error")
    await world.once.release(claim)
    again = await world.claim()
    assert again.request_id != claim.request_id


async def test_after_a_release_even_another_body_may_use_the_key() -> None:
    world = await a_world()
    await world.once.release(await world.claim())
    await world.claim(body=OTHER)


async def test_a_refunded_request_that_never_released_its_key_is_replaced_at_once() -> None:
    world = await a_world()
    claim = await world.claim()
    await world.hold(claim)
    await world.end(claim, Kind.REFUND, "provider_error")
    again = await world.claim()
    assert again.request_id != claim.request_id


async def test_a_process_that_died_after_its_settlement_left_a_receipt_not_a_lock() -> None:
    world = await a_world()
    claim = await world.served()
    replay = await world.replay()
    assert replay.request_id == claim.request_id
    assert replay.generation is not None
    assert replay.generation.settled == BILL
    world.pass_time(TTL_S + 1)
    assert (await world.replay()).request_id == claim.request_id
    assert await world.spent() == BILL


async def test_a_process_that_died_at_work_is_replaced_after_its_lease_and_not_before() -> None:
    world = await a_world()
    dead = await world.claim()
    await world.hold(dead)
    world.pass_time(TTL_S - 1)
    assert (await refused(world.begin())).code is Code.IDEMPOTENCY_IN_PROGRESS
    world.pass_time(2)
    heir = await world.claim()
    assert heir.request_id != dead.request_id
    assert dead.request_id not in world.store.open_holds
    await world.hold(heir)
    await world.end(heir, Kind.SETTLE)
    await world.once.finish(heir, None)
    assert (await world.replay()).request_id == heir.request_id
    assert await world.spent() == BILL
    assert (await world.ledger.health()).sound


async def test_who_only_seemed_dead_can_charge_nothing_any_more() -> None:
    world = await a_world()
    slow = await world.claim()
    await world.hold(slow)
    world.pass_time(TTL_S + 1)
    heir = await world.claim()
    await world.hold(heir)
    assert await world.end(slow, Kind.SETTLE) is Outcome.ALREADY_EXPIRED
    await world.once.finish(slow, SSE)
    await world.once.release(slow)
    assert (await refused(world.begin())).code is Code.IDEMPOTENCY_IN_PROGRESS
    await world.end(heir, Kind.SETTLE)
    assert (await world.replay()).request_id == heir.request_id
    assert await world.spent() == BILL


@dataclass
class SettlesMeanwhile(MemoryReceipts):
    """Between the look at a hold and what follows from it, the hold is settled."""

    world: World
    claim: Claim
    looks: int = 0

    async def generation(self, account_id: str, id: str) -> Generation | None:
        found = await MemoryReceipts(self.world.store).generation(account_id, id)
        self.looks += 1
        if self.looks == 1:
            await self.world.end(self.claim, Kind.SETTLE)
        return found


async def test_a_settlement_that_comes_during_the_take_over_is_found() -> None:
    world = await a_world()
    slow = await world.claim()
    await world.hold(slow)
    world.pass_time(TTL_S + 1)
    receipts = SettlesMeanwhile(world, slow)
    world.once = Once(world.claims, receipts, world.ledger, MemoryVault())
    replay = await world.replay()
    assert receipts.looks == 2
    assert replay.request_id == slow.request_id
    assert replay.generation is not None
    assert replay.generation.settled == BILL
    assert await world.spent() == BILL


async def test_of_many_that_find_a_dead_one_one_works() -> None:
    world = await a_world()
    dead = await world.claim()
    await world.hold(dead)
    world.pass_time(TTL_S + 1)
    begun = await asyncio.gather(*(world.begin() for _ in range(20)), return_exceptions=True)
    assert sum(isinstance(one, Claim) for one in begun) == 1
    assert all(
        one.code is Code.IDEMPOTENCY_IN_PROGRESS for one in begun if isinstance(one, Refusal)
    )


@pytest.mark.parametrize("settled", [False, True])
async def test_nothing_is_released_while_money_may_still_move(settled: bool) -> None:
    """The settlement was sent, its answer lost: it may be written or not."""
    world = await a_world()
    claim = await world.claim()
    await world.hold(claim)
    await world.once.release(claim)
    assert (await refused(world.begin())).code is Code.IDEMPOTENCY_IN_PROGRESS
    if settled:
        await world.end(claim, Kind.SETTLE)
        assert (await world.replay()).request_id == claim.request_id
    else:
        world.pass_time(TTL_S + 1)
        await world.ledger.sweep()
        assert (await world.claim()).request_id != claim.request_id


async def test_a_charged_request_is_not_released() -> None:
    world = await a_world()
    claim = await world.served()
    await world.once.release(claim)
    assert (await world.replay()).request_id == claim.request_id


async def test_a_client_that_left_a_stream_finds_what_it_was_charged() -> None:
    world = await a_world()
    claim = await world.claim()
    await world.hold(claim)
    await world.end(claim, Kind.SETTLE, "client_left")
    replay = await world.replay()
    assert replay.generation is not None
    assert replay.generation.record is not None
    assert replay.generation.record.outcome == "client_left"


async def test_after_a_day_a_key_is_new() -> None:
    world = await a_world()
    await world.once.finish(await world.served(), None)
    world.pass_time(KEEP_S + 1)
    await world.claim(body=OTHER)


async def test_a_free_request_is_replayed_without_a_receipt() -> None:
    world = await a_world()
    await world.once.finish(await world.claim(), None)
    assert (await world.replay()).generation is None


CONSENT = {"replay_minutes": 10}


@pytest.mark.parametrize("vault", [MemoryVault(), AesVault()], ids=["memory", "aes"])
async def test_with_the_keys_consent_the_very_bytes_are_replayed(vault: Vault) -> None:
    world = await a_world(vault)
    claim = await world.served(principal=CONSENT)
    await world.once.finish(claim, SSE)
    replay = await world.replay(principal=CONSENT)
    assert replay.answer == SSE
    world.pass_time(599)
    assert (await world.replay(principal=CONSENT)).answer == SSE
    world.pass_time(2)
    late = await world.replay(principal=CONSENT)
    assert late.answer is None
    assert late.generation is not None


@pytest.mark.parametrize(
    ("asked", "secret"),
    [
        ({"replay_minutes": 10}, "ky-another-one-4567890"),
        ({"replay_minutes": 0}, SECRET),
        ({"replay_minutes": 10}, ""),
    ],
    ids=["another key", "consent withdrawn", "no secret"],
)
async def test_nobody_else_and_nobody_without_consent_gets_the_bytes(
    asked: dict[str, int], secret: str
) -> None:
    world = await a_world(AesVault())
    claim = await world.served(principal=CONSENT)
    await world.once.finish(claim, SSE)
    replay = await world.replay(principal=asked, secret=secret)
    assert (replay.request_id, replay.answer) == (claim.request_id, None)


@pytest.mark.parametrize(
    ("consent", "secret", "answer", "kept"),
    [
        (10, SECRET, SSE, 1),
        (0, SECRET, SSE, 0),
        (10, "", SSE, 0),
        (10, SECRET, None, 0),
        (10, SECRET, StoredAnswer(200, "text/plain", b"x" * MAX_ANSWER_BYTES), 1),
        (10, SECRET, StoredAnswer(200, "text/plain", b"x" * (MAX_ANSWER_BYTES + 1)), 0),
    ],
)
async def test_an_answer_is_kept_only_with_consent_a_secret_and_within_a_megabyte(
    consent: int, secret: str, answer: StoredAnswer | None, kept: int
) -> None:
    world = await a_world()
    claim = await world.served(principal={"replay_minutes": consent}, secret=secret)
    await world.once.finish(claim, answer)
    assert world.claims.kept() == kept
    assert isinstance(await world.begin(), Replay)


class Away:
    """Claims in a database that is away, from a moment on."""

    def __init__(self, claims: MemoryClaims) -> None:
        self.claims = claims
        self.away = True

    def __getattr__(self, name: str) -> Any:
        if self.away:
            raise StorageUnavailable("away")
        return getattr(self.claims, name)


async def test_a_database_that_is_away_refuses_and_never_lets_through_unclaimed() -> None:
    world = await a_world()
    world.once = Once(
        Away(world.claims),
        MemoryReceipts(world.store),
        world.ledger,
        MemoryVault(),
    )
    refusal = await refused(world.begin())
    assert refusal.code is Code.STORAGE_UNAVAILABLE


async def test_a_last_word_that_is_lost_changes_neither_the_answer_nor_the_outcome() -> None:
    world = await a_world()
    gate = Away(world.claims)
    world.once = Once(
        gate,
        MemoryReceipts(world.store),
        world.ledger,
        MemoryVault(),
    )
    gate.away = False
    charged, free = await world.served(), await world.claim(key="order-18")
    await world.hold(free)
    await world.end(free, Kind.REFUND)
    gate.away = True
    await world.once.finish(charged, SSE)
    await world.once.release(free)
    gate.away = False
    assert (await world.replay()).request_id == charged.request_id
    await world.claim(key="order-18")


@pytest.mark.parametrize(
    "key", ["", "x" * 256, "two words", "tab\t", "nul\x00", "é", "line\n", "\x7f"]
)
async def test_a_key_that_is_none_is_refused_before_anything_is_written(key: str) -> None:
    world = await a_world()
    refusal = await refused(world.begin(key=key))
    assert (refusal.code, refusal.param) == (Code.INVALID_VALUE, "Idempotency-Key")


@pytest.mark.parametrize("key", ["x", "~" * 255, "order-17", '"quoted"'])
def test_any_visible_ascii_is_a_key(key: str) -> None:
    assert checked_key(key) == key


def known(state: State = State.RUNNING, *, overdue: bool = False) -> KnownClaim:
    return KnownClaim(BODY, new_id(), state, overdue=overdue, age_s=3.0, left_s=600.0)


@pytest.mark.parametrize(
    ("state", "fate", "overdue", "decision"),
    [
        (State.FINISHED, Fate.SETTLED, False, Decision.REPLAY),
        (State.FINISHED, Fate.NO_HOLD, True, Decision.REPLAY),
        (State.RUNNING, Fate.SETTLED, False, Decision.REPLAY),
        (State.RUNNING, Fate.SETTLED, True, Decision.REPLAY),
        (State.RUNNING, Fate.RETURNED, False, Decision.TAKE_OVER),
        (State.RUNNING, Fate.RETURNED, True, Decision.TAKE_OVER),
        (State.RUNNING, Fate.OPEN, False, Decision.WAIT),
        (State.RUNNING, Fate.NO_HOLD, False, Decision.WAIT),
        (State.RUNNING, Fate.OPEN, True, Decision.TAKE_OVER),
        (State.RUNNING, Fate.NO_HOLD, True, Decision.TAKE_OVER),
    ],
)
def test_what_a_repetition_may_do(
    state: State, fate: Fate, overdue: bool, decision: Decision
) -> None:
    assert decide(known(state, overdue=overdue), BODY, fate) is decision
    assert decide(known(state, overdue=overdue), OTHER, fate) is Decision.REUSED


@pytest.mark.parametrize(
    ("age_s", "left_s", "wait"),
    [(0.0, 720.0, 1.0), (7.0, 713.0, 7.0), (300.0, 420.0, 15.0), (718.0, 2.0, 2.0)],
)
def test_the_wait_grows_with_the_age_within_bounds(
    age_s: float, left_s: float, wait: float
) -> None:
    assert wait_s(replace(known(), age_s=age_s, left_s=left_s)) == wait


def test_method_path_and_every_byte_of_the_body_make_a_request_what_it_is() -> None:
    prints = {
        fingerprint_of("POST", "/v1/chat/completions", b"{}"),
        fingerprint_of("PUT", "/v1/chat/completions", b"{}"),
        fingerprint_of("POST", "/v1/messages", b"{}"),
        fingerprint_of("POST", "/v1/chat/completions", b"{ }"),
        fingerprint_of("POST", "/v1/chat/completions", b""),
    }
    assert len(prints) == 5
    assert {len(one) for one in prints} == {32}


@pytest.mark.parametrize("answer", [SSE, StoredAnswer(503, "", b""), StoredAnswer(200, "a", b"b")])
def test_a_packed_answer_is_unpacked_to_itself(answer: StoredAnswer) -> None:
    assert unpacked(answer.packed()) == answer
