"""Server-sent events out of whatever pieces a socket reads: the payloads, nothing else."""

from __future__ import annotations

from kyma.calls import Fault, UpstreamError

MAX_EVENT_BYTES = 16 * 1024 * 1024


class Splitter:
    """Bytes in, the data of every event that is complete out; keeps what is not, as `rest`."""

    __slots__ = ("rest",)

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, data: bytes) -> list[bytes] | None:
        """Payloads, without comments and fields that carry nothing; None if no event ended.

        Raises `UpstreamError` where an event grows without end.
        """
        data = self.rest + data if self.rest else data
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        *events, self.rest = data.split(b"\n\n")
        if len(self.rest) > MAX_EVENT_BYTES:
            raise UpstreamError(Fault.BROKEN, "an event without an end")
        if not events:
            return None
        payloads = []
        for event in events:
            # As a rule one line of data: no call for each of them.
            if event.startswith(b"data:") and b"\n" not in event:
                payload = event[5:].strip()
            else:
                payload = _joined(event)
            if payload:
                payloads.append(payload)
        return payloads


def _joined(event: bytes) -> bytes:
    lines = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines)
