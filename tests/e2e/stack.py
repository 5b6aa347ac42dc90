"""The real processes: sandbox providers and gateways, on loopback and free ports."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from adapters.embedded.processes import free_port
from adapters.settings import ROOT

PEPPER = "test-pepper-" + "0" * 32
PATIENCE_S = 20.0


@dataclass(slots=True)
class Process:
    """A child that answers over HTTP."""

    name: str
    url: str
    popen: subprocess.Popen[bytes]
    log: Path

    def kill(self) -> None:
        """As a crash would."""
        self.popen.send_signal(signal.SIGKILL)
        self.popen.wait(10)

    def stop(self) -> int:
        """As an operator would."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(30)

    def said(self) -> str:
        """Its log."""
        return self.log.read_text(errors="replace")


@dataclass(slots=True)
class Stack:
    """Starts processes and ends each of them by its id."""

    database_url: str
    redis_url: str
    started: list[Process] = field(default_factory=list)
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="kyma-e2e-")))

    async def sandbox(self, name: str = "sandbox", *arguments: str) -> Process:
        """A sandbox provider of this name."""
        port = free_port()
        return await self._start(
            name,
            [
                "-m", "adapters.embedded.sandbox", "--host", "127.0.0.1", "--port", str(port),
                "--name", name, "--speed-ms", "1", *arguments,
            ],
            {},
            f"http://127.0.0.1:{port}",
            "/healthz",
        )  # fmt: skip

    async def gateway(self, name: str = "gateway", **settings: str) -> Process:
        """A gateway; keyword arguments are settings without their `KYMA_`."""
        port = free_port()
        environment = {
            "KYMA_PORT": str(port),
            "KYMA_DATABASE_URL": self.database_url,
            "KYMA_REDIS_URL": self.redis_url,
            "KYMA_KEY_PEPPER": PEPPER,
            "KYMA_SANDBOX": "on",
            "KYMA_PASSWORD_MEMORY_MB": "8",  # hundreds of customers sign up
            **{f"KYMA_{key.upper()}": value for key, value in settings.items()},
        }
        return await self._start(
            name, ["-m", "adapters.http.serve"], environment, f"http://127.0.0.1:{port}", "/healthz"
        )

    async def console(self) -> Process:
        """The operators' console."""
        port = free_port()
        return await self._start(
            "console",
            [
                "-m", "streamlit", "run", "console/app.py", "--server.port", str(port),
                "--server.address", "127.0.0.1", "--server.headless", "true",
                "--browser.gatherUsageStats", "false", "--server.fileWatcherType", "none",
            ],
            {
                "KYMA_DATABASE_URL": self.database_url,
                "KYMA_REDIS_URL": self.redis_url,
                "KYMA_KEY_PEPPER": PEPPER,
            },
            f"http://127.0.0.1:{port}",
            "/_stcore/health",
        )  # fmt: skip

    async def _start(
        self, name: str, arguments: list[str], environment: dict[str, str], url: str, path: str
    ) -> Process:
        log = self.folder / f"{name}-{len(self.started)}.log"
        with log.open("wb") as file:
            popen = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                env={**_clean_environment(), **environment},
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        process = Process(name, url, popen, log)
        self.started.append(process)
        await _answers(process, url + path)
        return process

    def close(self) -> None:
        """End what still runs."""
        for process in reversed(self.started):
            process.stop()


def _clean_environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("KYMA_") and not name.endswith("_API_KEY")
    }


async def _answers(process: Process, url: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline:
            if process.popen.poll() is not None:
                raise RuntimeError(f"{process.name} ended at once:\n{process.said()}")
            try:
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)
    raise RuntimeError(f"{process.name} does not answer:\n{process.said()}")


async def register(url: str, email: str = "", password: str = "secret1") -> dict[str, Any]:
    """A new account over the API."""
    email = email or f"user-{os.urandom(6).hex()}@example.com"
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{url}/v1/auth/register", json={"email": email, "password": password}
        ) as response,
    ):
        body: dict[str, Any] = await response.json()
        assert response.status == 200, body
        return body
