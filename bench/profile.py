"""Where the gateway's time goes, while it is driven as in the benchmark."""

from __future__ import annotations

import asyncio
import signal
import tempfile
from pathlib import Path

from bench.load import Job
from bench.phases import Plan
from bench.stack import Say, Stack

PATIENCE_S = 10.0


async def profile(say: Say, plan: Plan, module: str, seconds: float, *, stream: bool) -> str:
    """Drive the gateway for so long and say which functions used its CPU."""
    with tempfile.TemporaryDirectory(prefix="kyma-profile-") as folder:
        path = Path(folder) / "samples.txt"
        async with Stack(say, plan.accounts, module=module, profile_to=path) as stack:
            job = Job(port=0, model=plan.model, connections=16, seconds=seconds)
            if stream:
                job = Job(
                    port=0, model=plan.model, connections=16, seconds=seconds,
                    stream=True, chunks=100, gap_ms=2.0,
                )  # fmt: skip
            say("warm-up")
            await stack.drive("gateway", Job(port=0, model=plan.model, count=plan.accounts))
            say(f"sampling for {seconds:g} s")
            stack.signal_gateway(signal.SIGUSR1)
            result = await stack.drive("gateway", job)
            stack.signal_gateway(signal.SIGUSR2)
            await _written(path)
            samples = path.read_text()
    kind = "streams of 100 chunks, 2 ms apart" if stream else "whole answers"
    head = (
        f"{result['answered']:,} {kind} at {result['rps']:,.0f}/s, 16 connections, "
        f"{result['cpu_us']} µs of CPU each (with the sampling), errors {result['errors']}"
    )
    return f"{head}\n{samples}\n"


async def _written(path: Path) -> None:
    """Another process writes it, so there is nothing to wait on but the file."""
    async with asyncio.timeout(PATIENCE_S):
        while not path.exists():  # noqa: ASYNC110, ASYNC240 - there is no event to wait for
            await asyncio.sleep(0.05)
