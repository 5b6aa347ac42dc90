"""What is measured, in which order, and for how long.

Each figure is taken in the same run straight from the fake upstream and through the gateway:
only the difference is the gateway's. Where CPU is the point, the floor is measured too.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from bench import database
from bench.load import Job
from bench.stack import Say, Stack

Result = dict[str, Any]

PATHS = ("direct", "floor", "gateway")
TITLES = {"direct": "direct", "floor": "the floor", "gateway": "through the gateway"}

AIM_RPS = 2_500
SATURATED = 0.97
"""A core that was busy for so large a part of the time was the limit."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how much. Seconds are for each path of each row."""

    name: str
    accounts: int
    whole_s: float
    open_s: float
    stream_s: float
    at_once_s: float
    connections: tuple[int, ...]
    at_once: tuple[int, ...]
    soak: int
    soak_limit_s: float = 400.0
    soak_samples: int = 20
    model: str = "llama-3.3-70b"


FULL = Plan(
    name="full",
    accounts=database.accounts_for(5_000),
    whole_s=8,
    open_s=12,
    stream_s=6,
    at_once_s=10,
    connections=(1, 16, 64),
    at_once=(64, 128, 256, 512, 768),
    soak=200_000,
)

QUICK = Plan(
    name="quick",
    accounts=1_000,
    whole_s=2,
    open_s=3,
    stream_s=2,
    at_once_s=3,
    connections=(1, 16, 64),
    at_once=(64, 512),
    soak=0,
)


class Phases:
    """Runs the plan on a stack that is up."""

    def __init__(self, stack: Stack, plan: Plan, say: Say) -> None:
        self._stack = stack
        self._plan = plan
        self._say = say

    async def all(self) -> Result:
        """Everything, in order; the soak comes last because it fills the database."""
        warm = await self._warm_up()
        whole = await self._whole()
        return {
            "plan": asdict(self._plan),
            "warm_up": warm,
            "whole": whole,
            "open": await self._open(max(row["gateway"]["rps"] for row in whole)),
            "streams": await self._streams(),
            "at_once": await self._at_once(),
            "soak": await self._soak(),
            "idle_rss_mb": self._stack.idle_rss_mb,
        }

    async def _warm_up(self) -> Result:
        """One request with every key: it is known to the gateway's caches, and it works."""
        self._say("warm-up: one request with every key")
        job = self._job(connections=8, seconds=30, count=self._plan.accounts)
        result = await self._stack.drive("gateway", job)
        if result["errors"]:
            raise RuntimeError(
                f"the gateway does not answer as it should: {result['errors']}; "
                f"for example {result['error_samples']}"
            )
        return result

    async def _whole(self) -> list[Result]:
        rows = []
        for connections in self._plan.connections:
            job = self._job(connections=connections, seconds=self._plan.whole_s)
            rows.append(await self._row(f"whole answers, {connections} connections", job))
        return rows

    async def _open(self, best_rps: float) -> list[Result]:
        rates = {int(best_rps / 2), AIM_RPS // 2} if best_rps > AIM_RPS else {int(best_rps / 2)}
        rows = []
        for rate in sorted(rates):
            job = self._job(connections=64, seconds=self._plan.open_s, rate=float(rate))
            rows.append(await self._row(f"open loop, {rate:,} requests per second", job))
        return rows

    async def _streams(self) -> list[Result]:
        rows = []
        for name, gap_ms in (("in one burst", 0.0), ("2 ms apart", 2.0)):
            job = self._job(
                connections=16, seconds=self._plan.stream_s, stream=True, chunks=100, gap_ms=gap_ms
            )
            rows.append(await self._row(f"streams of 100 chunks {name}, 16 connections", job))
        return rows

    async def _at_once(self) -> list[Result]:
        rows = []
        for connections in self._plan.at_once:
            job = self._job(
                connections=connections,
                seconds=self._plan.at_once_s,
                stream=True,
                chunks=64,
                gap_ms=20.0,
                spread_s=64 * 0.020,
            )
            rows.append(await self._row(f"{connections} streams at once", job))
        return rows

    async def _soak(self) -> Result | None:
        """Many requests, and the gateway's memory as they pass."""
        plan, samples = self._plan, [(0, self._stack.rss_mb())]
        if not plan.soak:
            return None
        self._say(f"soak: {plan.soak:,} requests, at most {plan.soak_limit_s:.0f} s")

        def heard(count: int) -> None:
            samples.append((count, self._stack.rss_mb()))
            self._say(f"  {count:>9,} requests, RSS {samples[-1][1]:.1f} MiB")

        job = self._job(
            connections=32,
            seconds=plan.soak_limit_s,
            count=plan.soak,
            progress_every=max(1, plan.soak // plan.soak_samples),
        )
        result = await self._stack.drive("gateway", job, heard)
        return {"gateway": result, "rss_mb": samples, "rows": plan.soak}

    async def _row(self, title: str, job: Job) -> Result:
        row: Result = {"title": title, "job": _settings(job)}
        for path in PATHS:
            self._say(f"{title}: {TITLES[path]}")
            row[path] = result = await self._stack.drive(path, job)
            self._say(f"  {_brief(result)}")
        return row

    def _job(self, **settings: Any) -> Job:
        return Job(port=0, model=self._plan.model, **settings)


def _settings(job: Job) -> Result:
    left_out = {"port", "keys", "first_key", "path"}
    return {name: value for name, value in job.fields().items() if name not in left_out}


def _brief(result: Result) -> str:
    latency = result.get("ttft") or result["latency"]
    parts = [f"{result['rps']:,.0f}/s", f"p50 {latency['p50_ms']} ms, p99 {latency['p99_ms']} ms"]
    if "cpu_us" in result:
        parts.append(f"{result['cpu_us']} µs of CPU each")
    if result["errors"]:
        parts.append(f"ERRORS {result['errors']}")
    return ", ".join(parts)


def problems(results: Result, audit: dict[str, int], stack: Stack) -> list[str]:
    """Why the run does not count; empty if it does."""
    found = [line for run in runs(results) for line in _errors(*run)]
    if stack.restarted():
        found.append("the gateway ended and was started again")
    if unlimited := stack.log_events().get("requests_passed_unlimited", 0):
        found.append(f"requests passed ungoverned in {unlimited} seconds of the run")
    if any(audit[name] != stack.answered for name in ("held", "settled", "recorded")):
        found.append(f"{stack.answered:,} answers, but the ledger shows {audit}")
    if audit["open_holds"]:
        found.append(f"{audit['open_holds']} holds are still open")
    return found


def _errors(title: str, path: str, result: Result) -> list[str]:
    if not result["errors"] and not result["answered"]:
        return [f"{title}, {path}: nothing was answered"]
    return [
        f"{title}, {path}: {count:,} × {name} {result['error_samples'].get(name, '')}".strip()
        for name, count in result["errors"].items()
    ]


def runs(results: Result) -> list[tuple[str, str, Result]]:
    """Every single run as (title, path, result)."""
    rows = [*results["whole"], *results["open"], *results["streams"], *results["at_once"]]
    found = [(row["title"], path, row[path]) for row in rows for path in PATHS]
    found.insert(0, ("warm-up", "gateway", results["warm_up"]))
    if results["soak"]:
        found.append(("soak", "gateway", results["soak"]["gateway"]))
    return found
