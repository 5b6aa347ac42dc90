"""The machine of a run: PostgreSQL, Valkey, the fake upstream, and one gateway process.

Owns the temporary folder, the processes and on which core they run: the gateway has one
for itself, everything else shares the other. Whatever it starts it also ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import redis.asyncio

from adapters.embedded import postgres
from adapters.embedded import redis as embedded_redis
from adapters.embedded.processes import (
    Child,
    Server,
    Supervisor,
    free_port,
    http_answers,
    passage,
    popen_options,
    unprivileged,
)
from adapters.settings import ROOT
from bench import database
from bench.load import DRAIN_S, Job
from bench.meters import Reading, rss_mb, yardstick_ms

PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV")
"""Nothing else of our environment reaches the gateway: with a provider key in it the
benchmark would call, and pay, a real provider."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Cores:
    """Where the processes run."""

    gateway: int
    rest: int

    @classmethod
    def of_machine(cls) -> Cores:
        """The first two cores that we may use; one alone is shared, and the report says so."""
        usable = sorted(os.sched_getaffinity(0))
        return cls(usable[0], usable[min(1, len(usable) - 1)])

    @property
    def both(self) -> tuple[int, ...]:
        """Each core once."""
        return tuple(dict.fromkeys((self.gateway, self.rest)))


class Stack:
    """Use as `async with Stack(...) as stack`."""

    def __init__(
        self, say: Say, accounts: int, *, module: str, profile_to: Path | None = None
    ) -> None:
        self._say = say
        self._accounts = accounts
        self._module = module
        self._profile_to = profile_to
        self._supervisor = Supervisor(lambda text: say(f"  {text}"))
        self._home = Path(tempfile.mkdtemp(prefix="kyma-bench-"))
        self._given_database = os.environ.get("KYMA_DATABASE_URL", "")
        self._own_database = ""
        self._next_key = 0
        self._gateway_pid = 0
        self.cores = Cores.of_machine()
        self.ports = {path: free_port() for path in ("direct", "floor", "gateway")}
        self.versions: dict[str, str] = {}
        self.idle_rss_mb = 0.0
        self.keep_logs = False
        self.answered = 0
        """By the gateway, in all runs: what the ledger must show."""

    async def __aenter__(self) -> Stack:
        try:
            await self._start()
        except BaseException:
            await self._stop(keep=True)
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await self._stop(keep=kind is not None and issubclass(kind, Exception))

    # --- up and down ------------------------------------------------------------------

    async def _start(self) -> None:
        passage(self._home, unprivileged())
        _raise_file_limit()
        # The children inherit it; the gateway alone is put elsewhere.
        os.sched_setaffinity(0, {self.cores.rest})
        database_url, redis_url = await asyncio.gather(self._postgres(), self._redis())
        self._say("migrations")
        await database.migrate(database_url, self._environment())
        pepper = secrets.token_hex(32)
        self._say(f"{self._accounts:,} accounts, $1,000 each")
        keys = await database.seed(database_url, pepper, self._accounts)
        self.keys_file = self._home / "keys"
        self.keys_file.touch(mode=0o600)
        self.keys_file.write_text("\n".join(keys))
        self.database_url = database_url
        await self._upstream()
        await self._floor()
        await self._gateway(database_url, redis_url, pepper)

    async def _stop(self, *, keep: bool) -> None:
        await self._supervisor.stop()
        if self._own_database:
            await database.drop_database(self._given_database, self._own_database)
        keep = keep or self.keep_logs
        for path in self._home.iterdir():
            if path.is_file():
                path.unlink()
            elif not (keep and path.name == "logs"):
                shutil.rmtree(path, ignore_errors=True)
        if keep:
            self._say(f"The logs of this run stay in {self._home}/logs")
        else:
            shutil.rmtree(self._home, ignore_errors=True)

    def _environment(self) -> dict[str, str]:
        passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        return {**passed, "PYTHONUNBUFFERED": "1", "KYMA_DATA_DIR": str(self._home)}

    def _log(self, name: str) -> Path:
        return self._home / "logs" / f"{name}.log"

    async def _postgres(self) -> str:
        if self._given_database:
            self._own_database = await database.own_database(self._given_database)
            self.versions["PostgreSQL"] = await database.server_version(self._own_database)
            return self._own_database
        server = await asyncio.to_thread(
            postgres.prepare, self._home, None, self._log("postgres"), sync=False
        )
        return await self._embedded("PostgreSQL", server)

    async def _redis(self) -> str:
        if url := os.environ.get("KYMA_REDIS_URL", ""):
            async with redis.asyncio.Redis.from_url(url) as client:
                self.versions["Redis"] = (await client.info("server"))["redis_version"]
            return url
        server = await asyncio.to_thread(embedded_redis.prepare, self._home, self._log("redis"))
        return await self._embedded("Valkey", server)

    async def _embedded(self, name: str, server: Server) -> str:
        self._say(f"{name} {server.version}")
        self.versions[name] = server.version
        await self._supervisor.start(server.child)
        return server.url

    async def _upstream(self) -> None:
        port = self.ports["direct"]
        await self._supervisor.start(
            replace(
                self._python("upstream", "-m", "bench.fake_upstream", "--port", str(port)),
                ready=lambda: http_answers("127.0.0.1", port, "/v1/models"),
            )
        )

    async def _floor(self) -> None:
        port = self.ports["floor"]
        options = ("--port", str(port), "--upstream", self._upstream_url())
        await self._supervisor.start(
            replace(
                self._pinned(self._python("floor", "-m", "bench.floor", *options)),
                ready=lambda: http_answers("127.0.0.1", port, "/healthz"),
            )
        )

    async def _gateway(self, database_url: str, redis_url: str, pepper: str) -> None:
        port = self.ports["gateway"]
        self._say(f"gateway on core {self.cores.gateway}, the rest on core {self.cores.rest}")
        program = ["-m", self._module]
        if self._profile_to is not None:
            program = ["-m", "bench.sampler", str(self._profile_to), self._module]
        child = self._pinned(self._python("gateway", *program))
        told = {
            "KYMA_PORT": str(port),
            "KYMA_DATABASE_URL": database_url,
            "KYMA_REDIS_URL": redis_url,
            "KYMA_KEY_PEPPER": pepper,
            # Everything that is measured is governed: a slow Valkey is to show as latency.
            "KYMA_REDIS_TIMEOUT_MS": "1000",
            "KYMA_SANDBOX": "on",
            "KYMA_SANDBOX_URL": self._upstream_url(),
        }
        await self._supervisor.start(
            replace(
                child,
                env={**child.env, **told},
                ready=lambda: http_answers("127.0.0.1", port, "/healthz"),
                ready_within_s=60.0,
                grace_s=30.0,
            )
        )
        self._gateway_pid = self._supervisor.pid("gateway")
        self.idle_rss_mb = self.rss_mb()

    def _upstream_url(self) -> str:
        return f"http://127.0.0.1:{self.ports['direct']}/v1"

    def _python(self, name: str, *arguments: str) -> Child:
        return Child(
            name=name,
            argv=[sys.executable, *arguments],
            env=self._environment(),
            cwd=ROOT,
            log=self._log(name),
        )

    def _pinned(self, child: Child) -> Child:
        """The same, on the gateway's core from its first thread on."""
        core = str(self.cores.gateway)
        return replace(child, argv=[sys.executable, "-m", "bench.pinned", core, *child.argv])

    # --- what is measured -------------------------------------------------------------

    def rss_mb(self) -> float:
        """Resident memory of the gateway now."""
        return rss_mb(self._supervisor.pid("gateway"))

    def signal_gateway(self, number: int) -> None:
        """For the profiler's start and stop."""
        os.kill(self._supervisor.pid("gateway"), number)

    def restarted(self) -> bool:
        """Whether the gateway ended and was started again: then nothing measured is valid."""
        return self._supervisor.pid("gateway") != self._gateway_pid

    def log_events(self) -> dict[str, int]:
        """How often the gateway logged what, warnings and worse."""
        events: Counter[str] = Counter()
        path = self._log("gateway")
        for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
            try:
                said = json.loads(line)
            except ValueError:
                continue
            if isinstance(said, dict) and said.get("level") in {"warning", "error", "critical"}:
                events[str(said.get("event"))[:100]] += 1
        return dict(events)

    async def drive(
        self, path: str, job: Job, heard: Callable[[int], None] | None = None
    ) -> dict[str, Any]:
        """Run the load generator against one path; its figures and the meters'."""
        job = replace(job, port=self.ports[path])
        if path == "gateway":
            job = replace(job, keys=str(self.keys_file), first_key=self._next_key)
        yardstick = yardstick_ms()
        before = self._read()
        results = await _generate(job, self._environment(), heard)
        used = before.until(self._read())
        if path == "gateway":
            self._next_key = (self._next_key + results["requests"]) % self._accounts
            self.answered += results["answered"]
            results["rss_mb"] = self.rss_mb()
        if path in used["cpu_s"]:
            results["cpu_us"] = _per(used["cpu_s"][path], results["answered"])
        used["cpu_s"]["load"] = results.pop("own_cpu_s")
        busy = {role: used["core_busy"][str(core)] for role, core in self._roles().items()}
        return results | {
            "cpu_s": used["cpu_s"],
            "core_busy": busy,
            "wall_s": used["wall_s"],
            "yardstick_ms": yardstick,
        }

    def _roles(self) -> dict[str, int]:
        return {"gateway": self.cores.gateway, "rest": self.cores.rest}

    def _read(self) -> Reading:
        names = ["gateway", "floor", "upstream"]
        names += ["postgres"] if "PostgreSQL" in self.versions and not self._given_database else []
        names += ["redis"] if "Valkey" in self.versions else []
        return Reading.take({name: self._supervisor.pid(name) for name in names}, self.cores.both)


def _per(seconds: float, count: int) -> float | None:
    return round(seconds * 1e6 / count, 1) if count else None


async def _generate(
    job: Job, environment: dict[str, str], heard: Callable[[int], None] | None
) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.load", *job.argv()),
        **popen_options(None, signal.SIGKILL),
        cwd=ROOT,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        limit=2**24,
    )
    assert process.stdout is not None
    results: dict[str, Any] = {}
    try:
        async with asyncio.timeout(job.seconds + job.spread_s + 3 * DRAIN_S):
            async for line in process.stdout:
                said = json.loads(line)
                if "progress" not in said:
                    results = said
                elif heard is not None:
                    heard(said["progress"])
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if not results:
        raise RuntimeError("the load generator ended without a result; what it said is above")
    return results


def _raise_file_limit() -> None:
    """A stream through the gateway takes two sockets there; the usual limit is 1,024 files."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def clock_text() -> str:
    """UTC, to the minute."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
