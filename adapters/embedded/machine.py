"""All processes of one machine, and the order in which they come.

It is told how a schema is brought up to date and how a first account is made, and knows neither.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from adapters.embedded import postgres, redis
from adapters.embedded.first_run import FirstRun, forget_password, read_secrets, write_secrets
from adapters.embedded.processes import (
    Child,
    Server,
    StartError,
    Supervisor,
    free_port,
    http_answers,
    is_free,
    remembered_port,
)
from adapters.embedded.screen import Screen, find_model, local, tell
from adapters.settings import PEPPER_LENGTH, ROOT, Settings, child_environment

REDIS_PORT = 6379
CONNECT_S = 3.0


@dataclass(frozen=True, slots=True)
class _Urls:
    database: str
    redis: str
    sandboxes: tuple[str, ...] = ()


class Machine:
    """All processes of one machine, and the order in which they come."""

    def __init__(
        self,
        settings: Settings,
        screen: Screen,
        *,
        to_files: bool,
        migrate: Callable[[str], str],
        first: Callable[[Settings], Awaitable[FirstRun]],
    ) -> None:
        """`migrate` takes a database's URL and tells the version that it is at now."""
        self._settings = settings
        self._screen = screen
        self._to_files = to_files
        self._migrate = migrate
        self._first = first
        self.supervisor = Supervisor(screen.say)

    async def run(self, *, only_servers: bool) -> None:
        """Start everything, tell how to use it, and stay until cancelled."""
        if not only_servers:
            self._settings = _with_ports(_with_pepper(self._settings))
        urls = _Urls(await self._database(), await self._redis())
        if only_servers:
            self._screen.say(f"export KYMA_DATABASE_URL={urls.database}")
            self._screen.say(f"export KYMA_REDIS_URL={urls.redis}")
        else:
            await self._service(urls)
        await asyncio.Event().wait()

    async def _service(self, urls: _Urls) -> None:
        async with self._screen.step("migrations") as notes:
            notes.append(await asyncio.to_thread(self._migrate, urls.database))
        if self._settings.wants_sandbox and not self._settings.sandbox_url:
            sandboxes = await asyncio.gather(*map(self._sandbox, ("sandbox", "sandbox-2")))
            urls = replace(urls, sandboxes=tuple(sandboxes))
        self._settings = _resolved(self._settings, urls)
        async with self._screen.step("first account, key and operator"):
            first = await self._first(self._settings)
        await self._processes()
        model = await asyncio.to_thread(find_model, self._settings)
        tell(self._settings, first, model, self._screen)
        forget_password(self._settings.data_dir)

    def _log(self, name: str) -> Path | None:
        return self._settings.data_dir / "logs" / f"{name}.log" if self._to_files else None

    async def _database(self) -> str:
        if self._settings.database_url:
            return self._settings.database_url
        async with self._screen.step("PostgreSQL") as notes:
            server = await asyncio.to_thread(
                postgres.prepare,
                self._settings.data_dir,
                self._settings.pg_bin,
                self._log("postgres"),
            )
            return await self._served(server, notes)

    async def _redis(self) -> str:
        if self._settings.redis_url:
            await self._say_if_away(self._settings.redis_url)
            return self._settings.redis_url
        async with self._screen.step("Redis") as notes:
            server = redis.prepare(self._settings.data_dir, self._log("redis"))
            return await self._served(server, notes)

    async def _say_if_away(self, url: str) -> None:
        at = urlsplit(url)
        host, port = at.hostname, at.port or REDIS_PORT
        if host and not await _listens(host, port):
            self._screen.say(
                f"Note: nothing answers at KYMA_REDIS_URL, {host}:{port}. Until it does nobody is "
                "limited, and no letter is sent and no job is done."
            )

    async def _served(self, server: Server, notes: list[str]) -> str:
        await self.supervisor.start(server.child)
        notes.append(f"{server.version} on {server.url.rpartition('@')[2]}")
        return server.url

    async def _sandbox(self, name: str) -> str:
        """Its port is ours to remember: a restarted sandbox must be where the others look."""
        port = remembered_port(self._settings.data_dir / f"{name}.port")
        options = ("--host", "127.0.0.1", "--port", str(port), "--name", name)
        async with self._screen.step(f"{name} provider") as notes:
            await self.supervisor.start(
                replace(
                    self._python(name, "adapters.embedded.sandbox", *options),
                    ready=lambda: _listens("127.0.0.1", port),
                )
            )
            notes.append(f"on 127.0.0.1:{port}")
        return f"http://127.0.0.1:{port}/v1"

    async def _processes(self) -> None:
        settings = self._settings
        host = local(settings.host)
        shared = ["--reuse-port"] if settings.processes > 1 else []
        serving = [
            replace(
                self._python(f"http-{number}", "adapters.http.serve", *shared),
                ready=lambda: http_answers(host, settings.port, "/healthz"),
                ready_within_s=60.0,
                # Answers in flight are finished, and paid for.
                grace_s=settings.shutdown_grace_s + 10.0,
            )
            for number in range(1, settings.processes + 1)
        ]
        worker = self._python("worker", "adapters.workers.worker")
        async with self._screen.step("HTTP server, worker, console"):
            await together(
                self.supervisor.start(child) for child in [*serving, worker, self._console()]
            )

    def _console(self) -> Child:
        port = self._settings.console_port
        options = {
            "server.port": str(port),
            "server.address": "127.0.0.1",
            "server.headless": "true",
            "browser.gatherUsageStats": "false",
            "server.fileWatcherType": "none",
        }
        flags = (word for name, value in options.items() for word in (f"--{name}", value))
        return replace(
            self._python("console", "streamlit", "run", "console/app.py", *flags),
            ready=lambda: http_answers("127.0.0.1", port, "/_stcore/health"),
            ready_within_s=60.0,
        )

    def _python(self, name: str, module: str, *options: str) -> Child:
        return Child(
            name=name,
            argv=[sys.executable, "-m", module, *options],
            env=child_environment(_told(self._settings)),
            cwd=ROOT,
            log=self._log(name),
        )


async def together(starts: Iterator[Coroutine[Any, Any, None]]) -> None:
    """Start side by side; the first that fails stops the waiting for the others."""
    failed: list[BaseException] = []
    try:
        async with asyncio.TaskGroup() as group:
            for start in starts:
                group.create_task(start)
    except* StartError as failures:
        failed.extend(failures.exceptions)
    if failed:  # raised here: within `except*` it would be wrapped in a group again
        raise failed[0]


async def _listens(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(host, port)
    except OSError:  # a timeout is one
        return False
    writer.close()
    return True


def _with_pepper(settings: Settings) -> Settings:
    """The given pepper, else the one generated at the first run."""
    given = settings.key_pepper.get_secret_value()
    if given and len(given) < PEPPER_LENGTH:
        raise StartError(
            f"KYMA_KEY_PEPPER has {len(given)} characters and needs {PEPPER_LENGTH}. Set a longer "
            "one (`openssl rand -hex 32`), or unset it to have one generated."
        )
    if given:
        return settings
    kept = read_secrets(settings.data_dir)
    if "key_pepper" not in kept:
        kept["key_pepper"] = secrets.token_hex(32)
        write_secrets(settings.data_dir, kept)
    return settings.model_copy(update={"key_pepper": SecretStr(kept["key_pepper"])})


def _with_ports(settings: Settings) -> Settings:
    """See that both ports are free before anything starts; 0 means any."""
    chosen = {}
    if settings.port and settings.port == settings.console_port:
        raise StartError(
            f"KYMA_PORT and KYMA_CONSOLE_PORT are both {settings.port}: the HTTP server and the "
            "console need a port each."
        )
    for field, what, host in (
        ("port", "the HTTP server", settings.host),
        ("console_port", "the console", "127.0.0.1"),
    ):
        port: int = getattr(settings, field)
        if port and not is_free(port, host):
            raise StartError(
                f"Port {port}, for {what}, is taken by another program or not ours to use. "
                f"Stop that program, or choose another port: KYMA_{field.upper()}={port + 1}"
            )
        chosen[field] = port or free_port()
    return settings.model_copy(update=chosen)


def _resolved(settings: Settings, urls: _Urls) -> Settings:
    """Settings as the service's own processes will read them."""
    update: dict[str, Any] = {"database_url": urls.database, "redis_url": urls.redis}
    if urls.sandboxes:
        update["sandbox_url"], update["sandbox_url_2"] = urls.sandboxes
    return settings.model_copy(update=update)


def _told(settings: Settings) -> dict[str, str]:
    """The environment by which a child learns what was resolved here."""
    return {
        "KYMA_DATABASE_URL": settings.database_url,
        "KYMA_REDIS_URL": settings.redis_url,
        "KYMA_KEY_PEPPER": settings.key_pepper.get_secret_value(),
        "KYMA_SANDBOX_URL": settings.sandbox_url,
        "KYMA_SANDBOX_URL_2": settings.sandbox_url_2,
        "KYMA_DATA_DIR": str(settings.data_dir),
        "KYMA_PORT": str(settings.port),
        "KYMA_CONSOLE_PORT": str(settings.console_port),
        "PYTHONUNBUFFERED": "1",
    }
