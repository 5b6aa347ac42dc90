"""`Server-Timing` on every answer of Quart: how long this process worked on it."""

from __future__ import annotations

from quart import Quart, Response, g

from kyma.ports.runtime import Clock


def install(app: Quart, clock: Clock) -> None:
    """Measure from the first to the last thing done for a request, its body included."""

    @app.before_request
    async def begin() -> None:
        g.started = clock.monotonic()

    @app.after_request
    async def tell(response: Response) -> Response:
        response.headers["Server-Timing"] = server_timing(app=clock.monotonic() - g.started)
        return response


def server_timing(**seconds: float) -> str:
    """The header's value: each part's name and its milliseconds."""
    return ", ".join(f"{name};dur={took * 1000:.2f}" for name, took in seconds.items())
