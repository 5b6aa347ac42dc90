"""Bodies as they came: how they are packed, how many values they hold, and who reads large ones.

Reading a small body takes microseconds and happens at once. A large one is read in a thread,
so that the event loop goes on meanwhile; the decoder itself holds the interpreter, which is why
the number of values is bounded: 250,000 are decoded in some 30 ms, the seven million that fit
into 20 MiB in two seconds (measured on two slow cores).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn, TypeVar
from weakref import WeakValueDictionary

import msgspec

from kyma.errors import Code, Refusal

T = TypeVar("T")

SMALL_BYTES = 64 * 1024
"""The most that a route takes to which nobody sends a prompt."""

LARGE_BYTES = 128 * 1024
"""From here on a body is read off the event loop; at its worst it would take 30 ms there."""

MAX_VALUES = 250_000
AT_ONCE = 2

HALF_A_PAIR = re.compile(rb"\\u[dD][89a-bA-B][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")


def check_packing(encoding: str) -> None:
    """Refuse a body that is compressed; `encoding` is its `Content-Encoding`."""
    if encoding.strip().lower() not in {"", "identity"}:
        raise Refusal(
            Code.UNSUPPORTED_MEDIA_TYPE,
            f"Bodies with Content-Encoding {encoding[:40]!r} are not read here: send plain JSON.",
            param="Content-Encoding",
        )


def parsed(raw: bytes) -> dict[str, Any]:
    """The JSON object of a body, whatever is in it."""
    if len(raw) > MAX_VALUES and _holds_too_much(raw):
        raise Refusal(
            Code.BODY_TOO_LARGE, f"The body holds more than {MAX_VALUES:,} names and values."
        )
    try:
        body = msgspec.json.decode(raw)
    except RecursionError:
        raise Refusal(Code.INVALID_JSON, "The JSON body is nested too deeply.") from None
    except UnicodeDecodeError:
        raise Refusal(Code.INVALID_JSON, "The body is not valid UTF-8.") from None
    except msgspec.DecodeError as error:
        _complain(raw, str(error))
    if not isinstance(body, dict):
        raise Refusal(Code.INVALID_TYPE, "The body must be a JSON object.")
    return body


def _complain(raw: bytes, error: str) -> NoReturn:
    """Say what is wrong; the decoder takes a text that ends in half a pair for a cut one."""
    if "surrogate" in error or ("truncated" in error and HALF_A_PAIR.search(raw)):
        error = (
            "a text holds half of a surrogate pair (`\\ud800` to `\\udfff` without its other "
            "half), which is no character"
        )
    raise Refusal(Code.INVALID_JSON, f"The body is not valid JSON: {error}.")


def _holds_too_much(raw: bytes) -> bool:
    """Whether there are more than `MAX_VALUES`, told without building any."""
    if _marks(raw) <= MAX_VALUES:
        return False
    # Prose has commas, too: leave out every text, and before that what only looks like its end.
    bare = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    if bare.count(b'"') > 2 * MAX_VALUES:
        return True
    return _marks(b"".join(bare.split(b'"')[::2])) > MAX_VALUES


def _marks(raw: bytes) -> int:
    """Every value but the first stands behind one of these."""
    return raw.count(b",") + raw.count(b"[") + raw.count(b"{")


class Workbench:
    """Where large bodies are read: few at once, and of each customer one after the other.

    So whoever sends many of them waits for themselves, not everybody else for them.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(AT_ONCE, "large-body")
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def run(self, account_id: str, work: Callable[[], T]) -> T:
        """What this work for a customer comes to, done in a thread when it is their turn."""
        turn = self._turns.setdefault(account_id, asyncio.Lock())
        async with turn:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
