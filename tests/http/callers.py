"""Who asks from some address, with a key or without one, and what they are told is left."""

from __future__ import annotations

from kyma.errors import Code, Refusal
from tests.http.on_memory import Place
from tests.http.wired import Answer

HERE = "203.0.113.9"
CHAT = "/v1/chat/completions"
REQUESTS = {f"x-ratelimit-{word}-requests" for word in ("limit", "remaining", "reset")}
TOKENS = {f"x-ratelimit-{word}-tokens" for word in ("limit", "remaining")}
TIER_0 = "30"


def figures(answer: Answer) -> set[str]:
    return {name for name in answer.headers if name.startswith("x-ratelimit-")}


def remaining(answer: Answer) -> int:
    return int(answer.headers["x-ratelimit-remaining-requests"])


async def stranger(
    place: Place,
    method: str = "GET",
    path: str = "/v1/models",
    *,
    secret: str | None = None,
    address: str = HERE,
    **headers: str,
) -> Answer:
    return await place.ask(method, path, secret=secret, address=address, **headers)


async def left(place: Place, address: str = HERE) -> int:
    """Told where nothing is counted."""
    return remaining(await stranger(place, path="/healthz", address=address))


async def use_up(place: Place, address: str = HERE) -> None:
    """What so many requests without a key would do; the clock of strangers stands still."""
    for _ in range(await left(place, address)):
        place.container.strangers().heard(Refusal(Code.MISSING_KEY, "no key"), address)
    assert await left(place, address) == 0
