"""The sandbox's record of what it was asked, for the tests of a gateway. Keeps no prompt."""

from collections import deque
from dataclasses import dataclass, field

_KEPT_RECORDS = 100


@dataclass(slots=True)
class Record:
    """One request for an answer, as the tests of a gateway want to see it."""

    number: int
    path: str = ""
    model: str | None = None
    stream: bool = False
    fault: str | None = None
    status: int | None = None
    chunks_sent: int = 0
    completed: bool = False
    client_disconnected: bool = False
    aborted: bool = False
    """The sandbox itself closed the connection, because a fault asked for it."""


@dataclass(slots=True)
class Log:
    """The requests since the last `DELETE /sandbox/requests`."""

    count: int = 0
    last: deque[Record] = field(default_factory=lambda: deque(maxlen=_KEPT_RECORDS))

    def open(self, path: str) -> Record:
        """A record for the request that just arrived."""
        self.count += 1
        record = Record(self.count, path)
        self.last.append(record)
        return record

    def clear(self) -> None:
        """Starts counting anew."""
        self.count = 0
        self.last.clear()
