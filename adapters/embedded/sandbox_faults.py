"""The failures the sandbox can act out, and which of them a request meets.

Owns the counting (how often, since when, how likely). What a fault does to the bytes on the wire
is decided by the modules that send them.
"""

import random
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

_REMEMBERED_KEYS = 4_096


class FaultName(StrEnum):
    """Every fault that can be asked for."""

    ERROR_500 = "error_500"
    ERROR_503 = "error_503"
    RATE_LIMIT = "rate_limit"
    UNAUTHORIZED = "unauthorized"
    PAYMENT_REQUIRED = "payment_required"
    BAD_REQUEST = "bad_request"
    CONTENT_FILTER = "content_filter"
    CONTEXT_TOO_LONG = "context_too_long"
    REJECT_PREFILL = "reject_prefill"
    TIMEOUT = "timeout"
    SLOW_START = "slow_start"
    RESET = "reset"
    RESET_BEFORE_HEADERS = "reset_before_headers"
    CUT_STREAM = "cut_stream"
    STALLED_STREAM = "stalled_stream"
    MALFORMED_CHUNK = "malformed_chunk"
    MISSING_DONE = "missing_done"
    MISSING_FINISH = "missing_finish"
    FAILED_FINISH = "failed_finish"
    ERROR_IN_STREAM = "error_in_stream"
    NEGATIVE_USAGE = "negative_usage"
    ABSURD_USAGE = "absurd_usage"
    NO_USAGE = "no_usage"
    FLAP = "flap"
    EMPTY_200 = "empty_200"
    HTML_200 = "html_200"


_SECONDS = {
    FaultName.TIMEOUT: 3_600.0,
    FaultName.SLOW_START: 20.0,
    FaultName.STALLED_STREAM: 30.0,
    FaultName.FLAP: 60.0,
}

_TIMES_TOLD = {FaultName.NEGATIVE_USAGE: -1, FaultName.ABSURD_USAGE: 1_000_000}


def times_told(fault: FaultName | None) -> int:
    """How many times its true usage an answer with this fault tells."""
    return _TIMES_TOLD.get(fault, 1) if fault is not None else 1


class FaultError(ValueError):
    """A fault that was asked for in words this module does not know."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One failure to act out, and for whom, how often and how long."""

    name: FaultName
    times: int | None = None
    """Only the first so many requests meet it; None is every one."""
    rate: float = 1.0
    seconds: float = 0.0
    healthy_seconds: float | None = None
    """For `flap`: how long it is well between two bad spells; None is for ever."""
    retry_after: float | None = None
    after: int | None = None
    """Chunks sent before a fault in mid-answer; None leaves it to the fault."""
    key: str = ""
    provider: str | None = None
    model: str | None = None


def fault_from(asked: Mapping[str, Any]) -> Fault:
    """A fault from JSON: the `sandbox` field of a body, or the body of `POST /sandbox/faults`."""
    try:
        name = FaultName(asked["fault"])
    except (KeyError, ValueError) as unknown:
        names = ", ".join(FaultName)
        raise FaultError(f"'fault' has to be one of: {names}") from unknown
    seconds = _number(asked, "seconds")
    rate = _number(asked, "rate")
    return Fault(
        name=name,
        times=_count(asked, "times"),
        rate=1.0 if rate is None else rate,
        seconds=_SECONDS.get(name, 0.0) if seconds is None else seconds,
        healthy_seconds=_number(asked, "healthy_seconds"),
        retry_after=_number(asked, "retry_after"),
        after=_count(asked, "after"),
        key=str(asked.get("key") or ""),
        provider=_text(asked, "provider"),
        model=_text(asked, "model"),
    )


def _number(asked: Mapping[str, Any], name: str) -> float | None:
    value = asked.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise FaultError(f"{name!r} has to be a number that is not negative")
    return float(value)


def _count(asked: Mapping[str, Any], name: str) -> int | None:
    value = asked.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise FaultError(f"{name!r} has to be a whole number that is not negative")
    return value


def _text(asked: Mapping[str, Any], name: str) -> str | None:
    value = asked.get(name)
    if value is not None and not isinstance(value, str):
        raise FaultError(f"{name!r} has to be a string")
    return value


@dataclass(slots=True)
class Armed:
    """A fault under way: how often it has acted and since when it counts."""

    fault: Fault
    since_s: float
    acted: int = 0

    @property
    def spent(self) -> bool:
        """Whether it has acted as often as it was to."""
        return self.fault.times is not None and self.acted >= self.fault.times

    def strikes(self, now_s: float, dice: random.Random) -> bool:
        """Whether it acts on the request at hand; counts it if so."""
        if self.spent or not _in_bad_spell(self.fault, now_s - self.since_s):
            return False
        if self.fault.rate < 1 and dice.random() >= self.fault.rate:
            return False
        self.acted += 1
        return True


def _in_bad_spell(fault: Fault, age_s: float) -> bool:
    if fault.name is not FaultName.FLAP:
        return True
    if fault.healthy_seconds is None:
        return age_s < fault.seconds
    return age_s % (fault.seconds + fault.healthy_seconds) < fault.seconds


@dataclass(slots=True)
class FaultBoard:
    """Which fault a request meets: the one it asks for itself, else the first one armed."""

    provider: str
    armed: list[Armed] = field(default_factory=list)
    by_key: OrderedDict[tuple[str, FaultName], Armed] = field(default_factory=OrderedDict)
    dice: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.dice = random.Random(self.provider)  # noqa: S311 -- repeatable, and guards nothing

    def arm(self, fault: Fault, now_s: float) -> None:
        """Lets the coming requests meet a fault, after those armed before it."""
        self.armed.append(Armed(fault, now_s))

    def clear(self) -> None:
        """Forgets every fault and every count."""
        self.armed.clear()
        self.by_key.clear()

    def meets(self, asked: Fault | None, model: str, last_role: str, now_s: float) -> Fault | None:
        """The fault this request meets, if any."""
        candidates = [*([self._asked(asked, now_s)] if asked else []), *self.armed]
        for armed in candidates:
            if self._concerns(armed.fault, model, last_role) and armed.strikes(now_s, self.dice):
                return armed.fault
        return None

    def _concerns(self, fault: Fault, model: str, last_role: str) -> bool:
        if fault.name is FaultName.REJECT_PREFILL and last_role != "assistant":
            return False
        return fault.provider in (None, self.provider) and fault.model in (None, model)

    def _asked(self, asked: Fault, now_s: float) -> Armed:
        counted = self.by_key.setdefault((asked.key, asked.name), Armed(asked, now_s))
        self.by_key.move_to_end((asked.key, asked.name))
        if len(self.by_key) > _REMEMBERED_KEYS:
            self.by_key.popitem(last=False)
        # The newest wording counts; only the count and the start belong to the key.
        counted.fault = asked
        return counted
