"""How a page's route is declared: the audit knows it, the document for programs does not."""

from __future__ import annotations

from collections.abc import Callable

from adapters.http.contract import Answer, Auth, Meter, Rate, Repeat, Tag, View, operation
from kyma.errors import Code

HTML = "text/html; charset=utf-8"


def page(id: str, summary: str, *errors: Code, media: str = HTML) -> Callable[[View], View]:
    """Anybody may open it; whoever must be signed in is sent to do so, and then back.

    A form is for one browser and one session, and no form of a browser sends an Idempotency-Key.
    """
    return operation(
        id=id,
        tag=Tag.AUTH,
        summary=summary,
        auth=Auth.NONE,
        limiter=Rate.NONE,
        meter=Meter.FREE,
        errors=(Code.STORAGE_UNAVAILABLE, *errors),
        answers={200: Answer(media=media)},
        documented=False,
        repeat=Repeat.NEVER,
    )
