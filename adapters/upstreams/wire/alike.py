"""Chunks of a stream that differ from an earlier one in nothing but their text.

Nearly all chunks of an answer are like this. Once one of them was decoded, the others are known by
the bytes around their text and need not be decoded: what surrounds the text is replaced by what
surrounded it in the chunk that was sent on, the text stays.
"""

from __future__ import annotations

import re

MAX_LESSONS = 4
"""Streams whose chunks never are alike (a changing time, a random field) are soon left alone."""

_PLAIN = rb'[^"\\\x00-\x1f]+'
"""What stands in a JSON string as it is; the text of an escape is shorter than its bytes."""

_is_plain = re.compile(_PLAIN).fullmatch
_contents = re.compile(rb'"content"\s*:\s*"(' + _PLAIN + rb')"').finditer


class Alike:
    """Knows one form of chunk, of one stream, with one choice."""

    __slots__ = ("_after", "_before", "_lessons", "_our_after", "_our_before", "_skip", "_tail")

    def __init__(self) -> None:
        self._before = self._after = self._our_before = self._our_after = b""
        self._skip = self._tail = 0
        self._lessons = 0

    def learn(self, payload: bytes, ours: bytes, text: str) -> None:
        """That `payload` says nothing but `text`, and was sent on as `ours`.

        Of no use where there is none, where it is written with escapes or stands there twice.
        """
        if not text or self._lessons >= MAX_LESSONS:
            return
        self._lessons += 1
        theirs, sent = _around(payload, text), _around(ours, text)
        if theirs is None or sent is None:
            return
        self._before, self._after = b"data: " + theirs[0], theirs[1] + b"\n\n"
        self._our_before, self._our_after = b"data: " + sent[0], sent[1]
        self._skip, self._tail = len(self._before), len(self._after)

    def events(self, data: bytes) -> tuple[list[bytes], int] | None:
        """The events to send on and the bytes of their texts, if `data` is only such chunks."""
        if not self._skip or not data.endswith(self._after):
            return None
        # As a rule one chunk; of several, what stands between the first and the last is not plain.
        text = data[self._skip : -self._tail]
        if _is_plain(text) and text.isascii() and data.startswith(self._before):
            return [self._our_before + text + self._our_after], len(text)
        events, weight = [], 0
        for chunk in data[: -self._tail].split(self._after):
            text = chunk[self._skip :]
            if not chunk.startswith(self._before) or not _is_plain(text):
                return None
            if not text.isascii() and not _is_utf8(text):
                return None
            weight += len(text)
            events.append(self._our_before + text + self._our_after)
        return events, weight


def _around(payload: bytes, text: str) -> tuple[bytes, bytes] | None:
    """What stands before a chunk's text and after it, if it stands there once and is plain."""
    found = list(_contents(payload))
    if len(found) != 1 or found[0].group(1) != text.encode("utf-8", "surrogatepass"):
        return None
    begin, end = found[0].span(1)
    return payload[:begin], payload[end:]


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
