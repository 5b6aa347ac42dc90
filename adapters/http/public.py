"""Routes that anyone may call: how they are declared, and what they know beyond the catalogue."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from adapters.http.contract import Answer, Auth, Meter, Rate, Schema, Tag, View, operation
from kyma.errors import Code
from kyma.ports.runtime import HealthBoard
from kyma.ports.storage import Probes

Check = Callable[[], Awaitable[bool | None]]
"""Whether a part of the service answers; None if that cannot be known. Never raises."""


@dataclass(frozen=True, slots=True)
class Public:
    """Filled by the container.

    `base_url` is what a client puts in front of `/v1`; `checks` are named as they are shown.
    """

    base_url: str
    board: HealthBoard
    probes: Probes
    checks: Mapping[str, Check]


def anyone(
    id: str,
    tag: Tag,
    summary: str,
    answer: Answer | Schema | str,
    description: str = "",
    errors: tuple[Code, ...] = (),
    **more: Any,
) -> Callable[[View], View]:
    """The declaration that such routes share: no key, no limiter, no charge."""
    return operation(
        id=id,
        tag=tag,
        summary=summary,
        description=f"{description or summary + '.'} No authentication required.",
        auth=Auth.NONE,
        limiter=Rate.NONE,
        meter=Meter.FREE,
        errors=errors,
        answers={200: answer},
        **more,
    )
