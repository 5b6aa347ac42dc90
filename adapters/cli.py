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
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import ENOTDIR
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from adapters.doctor import (
    database_of,
    examine,
    migrate_to_head,
)
from adapters.embedded.first_run import (
    FirstRun,
    Parts,
    first_run,
)
from adapters.embedded.machine import Machine
from adapters.embedded.processes import (
    StartError,
    blocked_at,
    passage,
    unprivileged,
)
from adapters.embedded.screen import Screen
from adapters.settings import Settings
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
        machine = Machine(
            settings, screen, to_files=not logs, migrate=migrate_to_head, first=_first
        )
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
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(ENOTDIR, "it is a file")
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


async def _until_asked(machine: Machine, *, only_servers: bool) -> None:
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
    except KeyboardInterrupt:
        raise SystemExit("stopped") from None
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
