"""The load generator: a process that sends chat requests and prints what it measured.

Closed loop: so many connections, each asks again when it was answered. Open loop: requests
leave by a fixed schedule whether or not the earlier ones were answered, and their latency
counts from the moment they were due, so that a slow server cannot hide its queue.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import time
from collections import Counter, deque
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import uvloop

from bench.client import STALL_NS, Connection, Exchange, StreamConnection
from bench.figures import histogram, summary
from bench.ticker import Ticker

DRAIN_S = 15.0
"""How long answers under way may take once no new request leaves."""

RECONNECTS = 1000
"""After so many lost connections the server is taken for dead."""


@dataclass(frozen=True, slots=True)
class Job:
    """One run: against which port, how much, of what. Bounded by `seconds` and, if set, `count`."""

    port: int
    keys: str = ""
    """File with one API key a line; empty: no Authorization header."""
    first_key: int = 0
    """Where in that file to begin: runs within a minute share the limits of an account."""
    connections: int = 16
    seconds: float = 5.0
    count: int = 0
    rate: float = 0.0
    """Requests per second of an open loop; 0: closed loop."""
    stream: bool = False
    chunks: int = 100
    gap_ms: float = 0.0
    spread_s: float = 0.0
    """Connections start evenly over this time instead of all at once."""
    progress_every: int = 0
    model: str = "llama-3.3-70b"
    max_tokens: int = 256
    path: str = "/v1/chat/completions"

    def argv(self) -> list[str]:
        """The options that make this job."""
        return [f"--{name.replace('_', '-')}={value}" for name, value in self.fields().items()]

    def fields(self) -> dict[str, Any]:
        """Name and value of every field."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def body(self) -> bytes:
        """The request, about 200 bytes."""
        question = "Name three rivers that cross a border, and say which border each crosses."
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": question}],
            "max_tokens": self.max_tokens,
        }
        if self.stream:
            body |= {"stream": True, "bench": {"chunks": self.chunks, "gap_ms": self.gap_ms}}
        return json.dumps(body, separators=(",", ":")).encode()

    def requests(self) -> list[bytes]:
        """The bytes to send, one for each key."""
        body = self.body()
        keys = Path(self.keys).read_text().split() if self.keys else [""]
        return [self._head(key, len(body)) + body for key in keys]

    def _head(self, key: str, length: int) -> bytes:
        lines = [
            f"POST {self.path} HTTP/1.1",
            f"Host: 127.0.0.1:{self.port}",
            "Content-Type: application/json",
            "Accept: */*",
            f"Content-Length: {length}",
            *([f"Authorization: Bearer {key}"] if key else []),
        ]
        return "\r\n".join([*lines, "", ""]).encode()


@dataclass(slots=True)
class Tally:
    """What was measured, in nanoseconds."""

    latencies: list[int] = field(default_factory=list)
    ttfts: list[int] = field(default_factory=list)
    late: list[int] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    stalled: int = 0
    upstream_late: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    samples: dict[str, str] = field(default_factory=dict)

    def add(self, exchange: Exchange) -> None:
        """Count one exchange; only faultless ones give durations."""
        if exchange.status:
            self.statuses[exchange.status] += 1
        if exchange.trouble or exchange.status != 200:
            name = str(exchange.status) if exchange.status not in (0, 200) else exchange.trouble
            self.errors[name] += 1
            self.samples.setdefault(name, exchange.body[:300].decode(errors="replace"))
            return
        self.latencies.append(exchange.finished - exchange.due)
        self.late.append(exchange.sent - exchange.due)
        if exchange.first:
            self.ttfts.append(exchange.first - exchange.due)
        self.stalled += exchange.stalled
        self.upstream_late += exchange.upstream_late


class Load:
    """One run, from the first connection to the figures."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.chunk_delays: list[int] = []
        self.gap_limit = STALL_NS + int(job.gap_ms * 1_000_000)
        self.expected_chunks = job.chunks
        self._requests = job.requests()
        self._tally = Tally()
        self._issued = 0
        self._open = True
        self._idle: deque[Connection] = deque()
        self._waiting: deque[int] = deque()
        self._connecting: set[asyncio.Task[None]] = set()
        self._lost = 0
        self._done = asyncio.Event()

    async def run(self) -> dict[str, Any]:
        """Drive the server and say what happened."""
        await asyncio.gather(*(self._connect() for _ in range(self.job.connections)))
        began = time.monotonic_ns()
        asyncio.get_running_loop().call_later(self.job.seconds, self._close)
        if self.job.rate:
            await self._by_schedule()
        else:
            await self._by_turns()
        if self._tally.in_flight:
            await _until(self._done, DRAIN_S)
        return self._results(began, time.monotonic_ns())

    async def _connect(self) -> None:
        loop, kind = asyncio.get_running_loop(), self._kind()
        try:
            _, connection = await loop.create_connection(kind, "127.0.0.1", self.job.port)
        except OSError as error:
            self._tally.errors[f"connect: {type(error).__name__}"] += 1
            return
        self._free(connection)

    def _kind(self) -> Any:
        kind = StreamConnection if self.job.stream else Connection
        return lambda: kind(self)

    async def _by_turns(self) -> None:
        loop = asyncio.get_running_loop()
        pause_s, began = self.job.spread_s / self.job.connections, loop.time()
        for place in range(self.job.connections):
            if pause_s:
                await asyncio.sleep(max(0.0, began + place * pause_s - loop.time()))
            if self._idle:
                self._send(self._idle.popleft())
        await _until(self._done, self.job.seconds + DRAIN_S)

    async def _by_schedule(self) -> None:
        with Ticker(self.job.rate, self._due):
            await _until(self._done, self.job.seconds)
        self._close()

    def _due(self, moment: int) -> None:
        """A request of the schedule: it leaves now, or as soon as a connection is free."""
        if not self._more():
            return
        if self._idle:
            self._send(self._idle.popleft(), moment)
        else:
            self._waiting.append(moment)

    def _more(self) -> bool:
        if self.job.count and self._issued + len(self._waiting) >= self.job.count:
            self._close()
        return self._open

    def _close(self) -> None:
        """No new request from now on."""
        self._open = False
        if not self._tally.in_flight and not self._waiting:
            self._done.set()

    def _send(self, connection: Connection, due: int = 0) -> None:
        if connection.transport is None:
            return
        request = self._requests[(self.job.first_key + self._issued) % len(self._requests)]
        self._issued += 1
        tally = self._tally
        tally.in_flight += 1
        tally.most_in_flight = max(tally.most_in_flight, tally.in_flight)
        connection.send(request, due)

    def finished(self, connection: Connection, exchange: Exchange) -> None:
        """An answer came, or will not: count it and use the connection again."""
        self._tally.in_flight -= 1
        self._tally.add(exchange)
        if self.job.progress_every and self._tally.statuses.total() % self.job.progress_every == 0:
            print(json.dumps({"progress": self._tally.statuses.total()}), flush=True)
        if connection.transport is not None:
            self._free(connection)
        if not self._open:
            self._close()

    def _free(self, connection: Connection) -> None:
        if self._waiting:
            self._send(connection, self._waiting.popleft())
        elif self.job.rate or not self._issued or not self._more():
            self._idle.append(connection)
        else:
            self._send(connection)

    def lost(self, connection: Connection) -> None:
        """The server closed: open another connection in its place."""
        if connection in self._idle:
            self._idle.remove(connection)
        self._lost += 1
        if self._lost > RECONNECTS:
            self._tally.errors["gave up"] += 1
            self._close()
            self._done.set()
        elif self._open:
            task = asyncio.ensure_future(self._connect())
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    def _results(self, began: int, ended: int) -> dict[str, Any]:
        tally = self._tally
        unfinished = tally.in_flight + len(self._waiting)
        if unfinished:
            tally.errors["unfinished"] += unfinished
        latency = summary(tally.latencies)
        elapsed_s = (ended - began) / 1e9
        results: dict[str, Any] = {
            "requests": self._issued,
            "answered": latency["count"],
            "seconds": round(elapsed_s, 3),
            "rps": round(latency["count"] / elapsed_s, 1),
            "errors": dict(tally.errors),
            "statuses": {str(status): count for status, count in tally.statuses.items()},
            "error_samples": tally.samples,
            "connections_lost": self._lost,
            "most_in_flight": tally.most_in_flight,
            "own_cpu_s": round(time.process_time(), 3),
            "latency": latency,
            "histogram_ms": histogram(tally.latencies),
        }
        if self.job.rate:
            results["sent_late"] = summary(tally.late)
        if self.job.stream:
            results |= self._stream_results()
        return results

    def _stream_results(self) -> dict[str, Any]:
        return {
            "ttft": summary(self._tally.ttfts),
            "chunk_delay": summary(self.chunk_delays),
            "stalled_streams": self._tally.stalled,
            "stalled_at_upstream": self._tally.upstream_late,
        }


async def _until(event: asyncio.Event, patience_s: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), patience_s)
    except TimeoutError:
        return


def _job() -> Job:
    parser = argparse.ArgumentParser(prog="bench.load", description=__doc__)
    for each in fields(Job):
        flag, kind = f"--{each.name.replace('_', '-')}", str(each.type)
        if each.name == "port":
            parser.add_argument(flag, type=int, required=True)
        elif kind == "bool":
            parser.add_argument(
                flag, type=lambda text: text == "True", nargs="?", const=True, default=each.default
            )
        else:
            convert = {"int": int, "float": float, "str": str}[kind]
            parser.add_argument(flag, type=convert, default=each.default)
    return Job(**vars(parser.parse_args()))


async def _main(job: Job) -> None:
    print(json.dumps(await Load(job).run()), flush=True)


def main() -> None:
    gc.disable()  # no cycles are made, and a pause would look like a slow answer
    uvloop.run(_main(_job()))


if __name__ == "__main__":
    main()
