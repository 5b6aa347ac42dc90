"""Auto top-up: when to charge a saved card unasked, and when to stop trying.

Pure. Amounts are nano-dollars; months are calendar months in UTC.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from kyma.errors import Code, Refusal
from kyma.ledger import Kind, Outcome
from kyma.money import ZERO, Usd, decimal_text, usd
from kyma.orders import CENT, Posting, check_purchase

LOW_BALANCE = usd("1")
"""Less than this is a low balance, for who ever had twice as much: see `low_mark`."""

MAX_FAILURES = 3
"""So many in a row switch it off."""

PAUSES = (timedelta(minutes=10), timedelta(hours=1))
"""After the first failure, and after the second: a card declined just now is declined again."""

RESUME_AFTER = timedelta(minutes=1)
"""A charge that has not ended after this is looked at again; whoever made it has died."""

RESUME_AT_MOST = timedelta(hours=1)
"""The longest from one look at such a charge to the next."""

LONG = timedelta(hours=1)
"""After this the owner is told that a charge has not ended."""

MAX_CEILING = usd("100000")


@dataclass(frozen=True, slots=True)
class TopUp:
    """What an account chose. `message` says why it was switched off, if it was not its choice."""

    account_id: str
    enabled: bool
    threshold: Usd
    amount: Usd
    monthly_ceiling: Usd
    failures: int = 0
    not_before: datetime | None = None
    message: str = ""
    tax: Usd = ZERO
    """On top of `amount`, as last reckoned; the ceiling is of both."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A charge under way: its order's id, and the card it was begun with."""

    order_id: str
    account_id: str
    card_id: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class LowBalance:
    """An account whose balance has become low. `armed_by` names the occasion."""

    account_id: str
    armed_by: str
    posted: Usd
    """What is left, held credit included: a hold may all come back."""


def check(setting: TopUp) -> None:
    """Refuse a setting that could not work or would surprise."""
    check_purchase(setting.amount)
    if setting.threshold < CENT or setting.threshold % CENT:
        raise _bad("threshold", "must be whole cents, and more than nothing")
    if setting.threshold > setting.amount:
        raise _bad("threshold", "must not exceed `amount`: one charge must be enough")
    if setting.monthly_ceiling < setting.amount + setting.tax or setting.monthly_ceiling % CENT:
        taxes = f" and its taxes ({decimal_text(setting.tax)})" if setting.tax else ""
        raise _bad("monthly_ceiling", f"must be whole cents, and at least `amount`{taxes}")
    if setting.monthly_ceiling > MAX_CEILING:
        raise _bad("monthly_ceiling", f"must not exceed {decimal_text(MAX_CEILING)}")


def _bad(param: str, what: str) -> Refusal:
    return Refusal(Code.INVALID_VALUE, f"`{param}` {what}.", param=param)


def low_mark(brought: Usd) -> Usd:
    """Below what a balance is low after this much came in: said once by mail, until the next.

    Half of it, if that is less: a sign-up grant is not low from the beginning.
    """
    return min(LOW_BALANCE, Usd(brought // 2))


def is_due(setting: TopUp, posted: Usd, charged_this_month: Usd, now: datetime) -> bool:
    """Whether to charge now, if no charge is under way.

    `posted` counts what is held: nobody is charged for a hold that comes back.
    """
    return (
        setting.enabled
        and posted < setting.threshold
        and charged_this_month + setting.amount + setting.tax <= setting.monthly_ceiling
        and (setting.not_before is None or setting.not_before <= now)
    )


def is_last(setting: TopUp) -> bool:
    """Whether one more failure switches it off."""
    return setting.enabled and setting.failures + 1 >= MAX_FAILURES


def after(setting: TopUp, failure: str | None, now: datetime) -> TopUp:
    """The setting once a charge has ended: None for a success."""
    if failure is None:
        # Why it was switched off meanwhile still has to be said.
        message = "" if setting.enabled else setting.message
        return replace(setting, failures=0, not_before=None, message=message)
    failures = setting.failures + 1
    if is_last(setting):
        message = f"Switched off after {failures} failed payments. The last one: {failure}"
        return replace(setting, enabled=False, failures=failures, not_before=None, message=message)
    pause = PAUSES[min(failures, len(PAUSES)) - 1]
    return replace(setting, failures=failures, not_before=now + pause)


def after_reversals(
    setting: TopUp, outcomes: Iterable[tuple[Posting, Outcome]]
) -> tuple[TopUp, frozenset[str]]:
    """The setting once these were booked, and the ids of those because of which it is off.

    Money that goes back takes credit away: what is charged for that goes back as well. One that
    was booked before does nothing again, for its owner may have switched it on since.
    """
    stopped: set[str] = set()
    for posting, outcome in outcomes:
        if posting.kind is not Kind.REVERSAL:
            continue
        message = f"Switched off because money went back: {posting.reason}."
        if outcome is Outcome.DONE and setting.enabled:
            setting = replace(setting, enabled=False, not_before=None, message=message)
        if not setting.enabled and setting.message == message:
            stopped.add(posting.id)
    return setting, frozenset(stopped)


def pause_after(resumes: int) -> timedelta:
    """How long until a charge that has not ended is looked at again, after so many looks.

    One, two, four … minutes, at most `RESUME_AT_MOST`: what the processor could not answer just
    now it cannot answer in five seconds, and everybody else's top-up would wait for the answer.
    """
    return min(RESUME_AFTER * (1 << min(resumes, 10)), RESUME_AT_MOST)


def month_of(now: datetime) -> datetime:
    """When the calendar month of `now` began."""
    return now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
