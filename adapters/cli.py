"""`kyma` for whoever runs the service: `up` starts everything, `migrate`, `doctor`.

Owns the order in which one machine's parts start and what a person reads meanwhile.
It decides nothing about customers, models or money.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import io
import json
import os
import secrets
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import SecretStr, ValidationError

from adapters.doctor import (
    PEPPER_LENGTH,
    database_of,
    examine,
    migrate_to_head,
)
from adapters.embedded import postgres
from adapters.embedded import redis as embedded_redis
from adapters.embedded.first_run import (
    FirstRun,
    Parts,
    first_run,
    forget_password,
    read_secrets,
    write_secrets,
)
from adapters.embedded.processes import (
    Child,
    Server,
    StartError,
    Supervisor,
    blocked_at,
    free_port,
    http_answers,
    is_free,
    passage,
    remembered_port,
    unprivileged,
)
from adapters.embedded.screen import Screen, find_model, local, tell
from adapters.settings import ROOT, Settings, child_environment
from kyma.errors import Refusal

ROOT_DATA = Path("/var/lib/kyma")

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # they can show local variables, and those hold secrets
    help="Run Kyma on this machine.",
)


# --- up ---------------------------------------------------------------------------------


@app.command()
def up(
    only_servers: Annotated[
        bool, typer.Option(help="Start PostgreSQL and Redis alone and print their URLs.")
    ] = False,
    logs: Annotated[
        bool, typer.Option(help="Show the logs here instead of writing them to files.")
    ] = False,
) -> None:
    """Start the whole service on this machine; Ctrl-C stops it and keeps the data."""
    screen, settings = Screen(), _placed()
    _make_data_dir(settings, screen)
    with _locked(settings):
        machine = _Machine(settings, screen, to_files=not logs)
        asyncio.run(_until_asked(machine, only_servers=only_servers))
    screen.say(f"stopped; data kept in {settings.data_dir}")


def _placed() -> Settings:
    """Settings with the data dir where the data really is, absolute.

    Root's servers run as `nobody`, who cannot get into a checkout below a 0700 home.
    """
    settings = Settings()
    wanted = settings.data_dir.absolute()
    embedded = not (settings.database_url and settings.redis_url)
    if embedded and unprivileged() is not None and blocked_at(wanted) is not None:
        wanted = ROOT_DATA / hashlib.sha256(str(wanted).encode()).hexdigest()[:12]
    return settings.model_copy(update={"data_dir": wanted})


def _make_data_dir(settings: Settings, screen: Screen) -> None:
    path, wanted = settings.data_dir, Settings().data_dir.absolute()
    if path != wanted:
        screen.say(
            f"Note: data goes to {path}, because the embedded servers of root run as user "
            f"`nobody`, who cannot enter {blocked_at(wanted)}. KYMA_DATA_DIR chooses another place."
        )
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.parent == ROOT_DATA:
                ROOT_DATA.chmod(0o755)  # whatever the umask: `nobody` passes through here
            passage(path, unprivileged())
    except OSError as error:
        raise StartError(
            f"The data folder {path} cannot be made ({error.strerror}). "
            "Set KYMA_DATA_DIR to a folder that you may write to."
        ) from error


@contextmanager
def _locked(settings: Settings) -> Iterator[None]:
    """One `up` per data dir. The kernel drops the lock however the process ends."""
    path = settings.data_dir / "lock"
    try:
        file = path.open("a+")
    except PermissionError as error:
        raise StartError(
            f"{path} belongs to another user. Start Kyma as the user who started it first, "
            "or set KYMA_DATA_DIR to another folder."
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise StartError(_held(settings.data_dir, file.read())) from error
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "url": settings.base_url}))
        file.flush()
        yield
        file.truncate(0)


def _held(data_dir: Path, text: str) -> str:
    holder = json.loads(text) if text else {"pid": "unknown", "url": ""}
    where = f" at {holder['url']}" if holder["url"] else ""
    return (
        f"Kyma already runs on {data_dir}{where} (process {holder['pid']}). Stop it with Ctrl-C "
        f"in its terminal or `kill {holder['pid']}`; for a second one beside it set "
        "KYMA_DATA_DIR, KYMA_PORT and KYMA_CONSOLE_PORT."
    )


async def _until_asked(machine: _Machine, *, only_servers: bool) -> None:
    """Run until a signal; the second one ends the patience with slow children."""
    loop, asked = asyncio.get_running_loop(), asyncio.Event()
    work = asyncio.ensure_future(machine.run(only_servers=only_servers))

    def ask() -> None:
        if asked.is_set():
            machine.supervisor.hurry()
        asked.set()
        work.cancel()

    # A script's `&` ignores SIGINT, yet whoever sends it means us; `nohup` means what it says.
    hang_up = [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN else []
    for number in (signal.SIGINT, signal.SIGTERM, *hang_up):
        loop.add_signal_handler(number, ask)
    try:
        await work
    except asyncio.CancelledError:
        if not asked.is_set():
            raise
    finally:
        await machine.supervisor.stop()


@dataclass(frozen=True, slots=True)
class _Urls:
    database: str
    redis: str
    sandboxes: tuple[str, ...] = ()


class _Machine:
    """All processes of one machine, and the order in which they come."""

    def __init__(self, settings: Settings, screen: Screen, *, to_files: bool) -> None:
        self._settings = settings
        self._screen = screen
        self._to_files = to_files
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
            notes.append(await asyncio.to_thread(migrate_to_head, urls.database))
        if self._settings.wants_sandbox and not self._settings.sandbox_url:
            sandboxes = await asyncio.gather(*map(self._sandbox, ("sandbox", "sandbox-2")))
            urls = replace(urls, sandboxes=tuple(sandboxes))
        self._settings = _resolved(self._settings, urls)
        async with self._screen.step("first account, key and operator"):
            first = await _first(self._settings)
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
            return self._settings.redis_url
        async with self._screen.step("Redis") as notes:
            server = embedded_redis.prepare(self._settings.data_dir, self._log("redis"))
            return await self._served(server, notes)

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
                    ready=lambda: _listens(port),
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
            await _together(
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


async def _together(starts: Iterator[Coroutine[Any, Any, None]]) -> None:
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


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
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


async def _first(settings: Settings) -> FirstRun:
    from adapters.container import Container  # noqa: PLC0415 - brings every adapter along

    container = Container(settings=settings)
    parts = Parts(
        accounts=container.accounts(),
        operators=container.operators(),
        passwords=container.passwords(),
        digests=container.digests(),
        chance=container.chance(),
        clock=container.clock(),
    )
    try:
        return await first_run(settings.data_dir, parts)
    finally:
        await container.units().close()


# --- migrate ----------------------------------------------------------------------------


@app.command()
def migrate() -> None:
    """Bring the database at KYMA_DATABASE_URL to the newest schema."""
    url = database_of(_placed())
    if url is None:
        raise StartError(
            "No database: set KYMA_DATABASE_URL, or run `make up` for an embedded one."
        )
    Screen().say(f"✓ migrations {migrate_to_head(url)}")


# --- operator ---------------------------------------------------------------------------


@app.command()
def operator(
    name: str,
    password: Annotated[str, typer.Option(prompt=True, hide_input=True, confirmation_prompt=True)],
) -> None:
    """Add somebody who may sign in to the console."""
    from adapters.container import Container  # noqa: PLC0415 - brings every adapter along

    settings = _placed()
    url = database_of(settings)
    if url is None:
        raise StartError("No database: set KYMA_DATABASE_URL, or run `make up` first.")
    container = Container(settings=settings.model_copy(update={"database_url": url}))

    async def create() -> None:
        try:
            await container.new_operators().create(name, password)
        finally:
            await container.units().close()

    try:
        asyncio.run(create())
    except Refusal as error:
        raise StartError(error.message) from error
    Screen().say(f"✓ {name.strip()} may sign in to the console")


# --- doctor -----------------------------------------------------------------------------


@app.command()
def doctor() -> None:
    """Check what the service stands on; exit code 1 if anything is wrong."""
    screen = Screen()
    try:
        settings = _placed()
    except ValidationError as error:
        screen.say(f"✗ settings: {_explained(error)}")
        raise typer.Exit(1) from error
    results = asyncio.run(examine(settings))
    for passed, text in results:
        screen.say(f"{'✓' if passed else '✗'} {text}")
    if not all(passed for passed, _ in results):
        raise typer.Exit(1)


# --- entry ------------------------------------------------------------------------------


def _explained(error: ValidationError) -> str:
    """Pydantic's findings by the names a person can change."""
    return "; ".join(
        " ".join(["KYMA_" + "_".join(map(str, found["loc"])).upper() + ":"] * bool(found["loc"]))
        + f" {found['msg']}"
        for found in error.errors(include_url=False, include_input=False)
    )


def _guarded(run: Callable[[], None]) -> None:
    try:
        run()
    except StartError as error:
        raise SystemExit(f"✗ {error}") from error
    except ValidationError as error:
        raise SystemExit(f"✗ settings: {_explained(error)}") from error


def main() -> None:
    """The `kyma` command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    _guarded(app)


if __name__ == "__main__":
    main()
