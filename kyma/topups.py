"""Auto top-up: when to charge a saved card unasked, and when to stop trying.

Pure. Amounts are nano-dollars; months are calendar months in UTC.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
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
    """What an account chose. `message` says why it charges nothing, if that is no choice."""

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

    delays: int = 0
    """How often in a row the processor did not answer before a charge was begun."""

    revision: int = field(default=0, compare=False)
    """Changes with each choice and with all that may switch it off: see `may_replace`."""


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


def may_replace(setting: TopUp, before: TopUp | None, found: TopUp | None) -> bool:
    """Whether a choice may take the place of what is found, if it was made looking at `before`.

    Not if money went back, a last charge failed or another choice was made since: whoever made
    this one did not know, and the card would be charged again. Switching off is always possible.
    """
    return not setting.enabled or _revision(before) == _revision(found)


def in_place_of(found: TopUp | None, setting: TopUp) -> TopUp:
    """The choice as it is kept, in the place of what was found."""
    return replace(setting, revision=_revision(found) + 1)


def _revision(setting: TopUp | None) -> int:
    return -1 if setting is None else setting.revision


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


def is_too_dear(setting: TopUp) -> bool:
    """Whether not even the first charge of a month is possible, with taxes as last reckoned."""
    return setting.amount + setting.tax > setting.monthly_ceiling


def is_worth_asking(setting: TopUp, posted: Usd, charged_this_month: Usd, now: datetime) -> bool:
    """Whether to reckon what a charge would cost now: if it is due, or was too dear.

    Taxes that made it too dear may have fallen; nobody finds out who goes by them for ever.
    """
    if is_too_dear(setting):
        setting = replace(setting, tax=ZERO)
    return is_due(setting, posted, charged_this_month, now)


def reckoned(setting: TopUp, tax: Usd, now: datetime) -> TopUp:
    """The setting once the processor has told what taxes a charge bears now.

    One that is too dear says so, and is reckoned again in the next month.
    """
    setting = replace(setting, tax=tax, delays=0)
    if not setting.enabled:
        return setting  # why it is off still has to be said
    if not is_too_dear(setting):
        return replace(setting, message="")
    message = (
        f"Nothing is charged: {decimal_text(setting.amount)} and its taxes ({decimal_text(tax)}) "
        f"are more than `monthly_ceiling` ({decimal_text(setting.monthly_ceiling)}). Taxes are "
        "reckoned again in the next month, or when auto top-up is set again."
    )
    return replace(setting, not_before=_next_month(now), message=message)


def delayed(setting: TopUp, now: datetime) -> TopUp:
    """The setting once the processor did not answer before a charge was begun.

    Asked again after one, two, four … minutes, and never before it would have been anyway: until
    it answers, everybody else's top-up would wait for the answer each time.
    """
    if not setting.enabled:
        return setting
    later = now + pause_after(setting.delays)
    later = max(later, setting.not_before or later)
    return replace(setting, delays=setting.delays + 1, not_before=later)


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
        off = replace(setting, enabled=False, failures=failures, not_before=None, message=message)
        return replace(off, revision=setting.revision + 1)
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
        if outcome is Outcome.DONE:
            # Though it is off: who is switching it on just now has not heard of this.
            setting = replace(setting, revision=setting.revision + 1)
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


def _next_month(now: datetime) -> datetime:
    return month_of(month_of(now) + timedelta(days=31))
