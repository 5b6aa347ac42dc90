"""What a person sees of `kyma up`: its progress, and in the end how to use what runs."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from rich.console import Console

from adapters.embedded.first_run import FirstRun
from adapters.settings import Settings


class Screen:
    """Progress for a person: a spinner on a terminal, plain lines in a log."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """One line, as it is: no markup, no wrapping (it may be copied)."""
        self._console.print(text, markup=False)

    @asynccontextmanager
    async def step(self, title: str) -> AsyncIterator[list[str]]:
        """A step with its duration; what is appended to the list is told beside it."""
        notes: list[str] = []
        began = time.monotonic()
        with self._console.status(title):
            yield notes
        took = f"({time.monotonic() - began:.1f} s)"
        self.say(" ".join(["✓", title, *notes, took]))


def local(host: str) -> str:
    """Where we ourselves reach a server that listens on `host`."""
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 compared with, not bound to
    return everywhere.get(host, host)


def find_model(settings: Settings) -> str | None:
    """A model that the running service serves; None if it serves none."""
    url = f"http://{local(settings.host)}:{settings.port}/v1/models"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return model_to_try(json.load(answer))


def model_to_try(listed: Any) -> str | None:
    """Of what `GET /v1/models` answers one that is served here: `best`, if it is."""
    served = [model["id"] for model in listed["data"]]
    return "best" if listed["aliases"].get("best") in served else next(iter(served), None)


def curl_line(base_url: str, api_key: str, model: str = "best") -> str:
    """A first request, to be pasted into a shell as it is."""
    asked = {"model": model, "messages": [{"role": "user", "content": "Say hello."}]}
    body = json.dumps(asked, separators=(",", ":"))
    return (
        f"curl -sS {base_url}/chat/completions -H 'Authorization: Bearer {api_key}' "
        f"-H 'Content-Type: application/json' -d '{body}'"
    )


def tell(settings: Settings, first: FirstRun, model: str | None, screen: Screen) -> None:
    """How to use what has started."""
    base = settings.public_url.rstrip("/") or f"http://{local(settings.host)}:{settings.port}"
    rows = {
        "Base URL": f"{base}/v1",
        "API key": first.api_key,
        "Console": f"http://127.0.0.1:{settings.console_port}",
        "Operator": first.operator_name,
    }
    if first.operator_password:
        rows["Password"] = f"{first.operator_password}  (shown only this once)"
    rows["Data, logs"] = str(settings.data_dir)
    screen.say("")
    for name, value in rows.items():
        screen.say(f"  {name:<11} {value}")
    if model is None:
        screen.say("\nNo provider serves a model yet: set a provider's key, or KYMA_LOCAL_URL.")
    else:
        screen.say("\nTry it:\n")
        screen.say(curl_line(f"{base}/v1", first.api_key, model))
    screen.say("\nCtrl-C stops everything; the data stays.")
