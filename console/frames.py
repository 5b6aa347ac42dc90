"""Domain rows → data frames. Pure: no page, no port, no rounding of money in a table.

Money appears twice where it is drawn: exact text for tables, a float for charts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime

import pandas as pd

from kyma.flows.overrides import CustomerTier
from kyma.ledger import Flag
from kyma.mail import State, Trouble
from kyma.money import decimal_text, number
from kyma.orders import Uncredited
from kyma.referrals import Referral
from kyma.tiers import TIERS, Override, Tier
from kyma.usage import CacheUsage, CustomerUsage

MINUTE = "%Y-%m-%d %H:%M"


def money(amount: int) -> str:
    """Exact dollars with thousands separators: `$1,234.50`; never fewer than two places."""
    sign, text = ("-", decimal_text(-amount)) if amount < 0 else ("", decimal_text(amount))
    whole, _, fraction = text.partition(".")
    return f"{sign}${int(whole):,}.{fraction:0<2}"


def short_money(amount: int) -> str:
    """Dollars for a headline, rounded; the exact text goes beside it."""
    if amount == 0 or abs(amount) >= 10**9:
        return f"${number(amount):,.2f}"
    return f"${number(amount):,.4f}" if abs(amount) >= 10**5 else "< $0.0001"


def compact(count: int) -> str:
    """A count for a headline: `950`, `12.3 K`, `4.6 M`."""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:,}"


def percent(share: float) -> str:
    """`12.3 %`."""
    return f"{share * 100:.1f} %"


def who(row: CustomerUsage) -> str:
    """The address, or the id of an account that has none."""
    return row.email or row.account_id


def customers(rows: Sequence[CustomerUsage]) -> pd.DataFrame:
    """Top customers for a table and, in `spend_usd`, for a chart."""
    return pd.DataFrame(
        {
            "Customer": [who(row) for row in rows],
            "Spend": [money(row.spend) for row in rows],
            "Requests": [row.requests for row in rows],
            "Tokens": [row.tokens for row in rows],
            "Provider cost": [money(row.provider_cost) for row in rows],
            "Account": [row.account_id for row in rows],
            "spend_usd": [number(row.spend) for row in rows],
        }
    )


def cache_by_day(rows: Sequence[CacheUsage]) -> pd.DataFrame:
    """One row per model and day (UTC)."""
    return pd.DataFrame(
        {
            "Day": [row.day.strftime("%Y-%m-%d") for row in rows],
            "Model": [row.model for row in rows],
            "Requests": [row.requests for row in rows],
            "Prompt tokens": [row.prompt_tokens for row in rows],
            "Cached tokens": [row.cached_tokens for row in rows],
            "Hit rate": [percent(row.hit_rate) for row in rows],
            "Savings": [money(row.savings) for row in rows],
            "hit_rate": [row.hit_rate for row in rows],
            "savings_usd": [number(row.savings) for row in rows],
        }
    )


def cache_by_model(rows: Sequence[CacheUsage]) -> pd.DataFrame:
    """One row per model over all days, largest savings first."""
    models: dict[str, list[CacheUsage]] = defaultdict(list)
    for row in rows:
        models[row.model].append(row)
    totals = sorted(
        ((model, cache_total(days)) for model, days in models.items()),
        key=lambda pair: (-pair[1].savings, pair[0]),
    )
    return pd.DataFrame(
        {
            "Model": [model for model, _ in totals],
            "Requests": [total.requests for _, total in totals],
            "Prompt tokens": [total.prompt_tokens for _, total in totals],
            "Cached tokens": [total.cached_tokens for _, total in totals],
            "Hit rate": [percent(total.hit_rate) for _, total in totals],
            "Savings": [money(total.savings) for _, total in totals],
        }
    )


def cache_total(rows: Sequence[CacheUsage]) -> CacheUsage:
    """All rows as one; its day and model are the first row's. Needs at least one row."""
    savings = type(rows[0].savings)(sum(row.savings for row in rows))
    return CacheUsage(
        day=rows[0].day,
        model=rows[0].model,
        requests=sum(row.requests for row in rows),
        prompt_tokens=sum(row.prompt_tokens for row in rows),
        cached_tokens=sum(row.cached_tokens for row in rows),
        cache_write_tokens=sum(row.cache_write_tokens for row in rows),
        savings=savings,
    )


def limits(customer: CustomerTier) -> pd.DataFrame:
    """What every tier allows, one column each; the customer's own is marked."""
    return pd.DataFrame(
        {
            f"{tier.name} (now)" if tier == customer.tier else tier.name: _allowances(tier)
            for tier in TIERS
        }
    )


def _allowances(tier: Tier) -> dict[str, str]:
    combined = tier.combined_media_concurrent
    return {
        "Lifetime deposits from": money(tier.min_deposit),
        "Requests / minute": f"{tier.requests_per_minute:,}",
        "Requests / minute and model": f"{tier.model_requests_per_minute:,}",
        "Tokens / minute": f"{tier.tokens_per_minute:,}",
        "Tokens in one request": f"{tier.max_request_tokens:,}",
        "Images at once": f"{tier.image_concurrent:,}",
        "Videos at once": f"{tier.video_concurrent:,}",
        "Images and videos at once": "no joint limit" if combined is None else f"{combined:,}",
        **{f"Audio at once, {provider}": f"{slots:,}" for provider, slots in tier.audio_pools},
        "Live sessions": f"{tier.live_sessions:,}",
    }


def history(decisions: Sequence[Override], now: datetime) -> pd.DataFrame:
    """Decisions on a customer as given, newest first; only the newest can be in force."""
    return pd.DataFrame(
        {
            "When (UTC)": [each.granted_at.strftime(MINUTE) for each in decisions],
            "Decision": [
                "Revoked" if each.level is None else TIERS[each.level].name for each in decisions
            ],
            "Ends (UTC)": [_end(each) for each in decisions],
            "State": [_state(each, place, now) for place, each in enumerate(decisions)],
            "Operator": [each.operator for each in decisions],
            "Reason": [each.reason for each in decisions],
        }
    )


def _end(decision: Override) -> str:
    if decision.level is None:
        return ""
    return "no end" if decision.until is None else decision.until.strftime(MINUTE)


def _state(decision: Override, place: int, now: datetime) -> str:
    if decision.level is None:
        return "deposits decide" if place == 0 else ""
    if not decision.in_force(now):
        return "ended"
    return "in force" if place == 0 else "replaced"


def uncredited(rows: Sequence[Uncredited]) -> pd.DataFrame:
    """Payments that were made and not credited, in whatever currency they are."""
    return pd.DataFrame(
        {
            "Paid (UTC)": [row.payment.created_at.strftime(MINUTE) for row in rows],
            "Amount": [money(row.payment.amount).replace("$", "") for row in rows],
            "Currency": [row.payment.currency.upper() for row in rows],
            "Gone back": [money(row.returned).replace("$", "") for row in rows],
            "Why not": [row.refusal for row in rows],
            "Payment": [row.payment.id for row in rows],
            "Account": [row.payment.account_id for row in rows],
        }
    )


def flags(rows: Sequence[Flag]) -> pd.DataFrame:
    """Accounts that got more back than was left of what they bought."""
    return pd.DataFrame(
        {
            "When (UTC)": [row.flagged_at.strftime(MINUTE) for row in rows],
            "Our loss": [money(row.amount) for row in rows],
            "Reason": [row.reason for row in rows],
            "Account": [row.account_id for row in rows],
        }
    )


def letters(rows: Sequence[Trouble]) -> pd.DataFrame:
    """Letters that did not go, or of which nobody knows; an old one has lost its address."""
    outcome = {State.GIVEN_UP: "not sent", State.UNKNOWN: "not known"}
    return pd.DataFrame(
        {
            "When (UTC)": [row.ended_at.strftime(MINUTE) for row in rows],
            "Letter": [row.letter.value.replace("_", " ") for row in rows],
            "To": [row.to for row in rows],
            "Outcome": [outcome[row.state] for row in rows],
            "Tries": [row.tries for row in rows],
            "Last error": [row.error for row in rows],
        }
    )


def referrals(rows: Sequence[Referral]) -> pd.DataFrame:
    """Whom a customer sent, and how much those have used."""
    return pd.DataFrame(
        {
            "Since (UTC)": [row.created_at.strftime(MINUTE) for row in rows],
            "State": [row.state.value for row in rows],
            "Tokens": [f"{row.tokens:,}" for row in rows],
            "Referred account": [row.referred_id for row in rows],
        }
    )
