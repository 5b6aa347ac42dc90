"""Processes of one machine: as whom they run, how they start, stay up and stop.

Owns the supervisor behind `make up` and the few facts both embedded servers
share (the unprivileged user, free ports, who holds a folder). It refuses to
know what any child does: a child is an argv, a probe and three signals.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

FIRST_BACKOFF_S = 0.5
LAST_BACKOFF_S = 30.0
STEADY_S = 60.0  # a child that lived this long starts again with the first backoff
LOG_LIMIT_BYTES = 10 * 1024 * 1024
TAIL_LINES = 15

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class StartError(RuntimeError):
    """Something could not start; the text is a sentence for whoever typed the command."""


@dataclass(frozen=True, slots=True)
class User:
    """The account that embedded servers run under when we are root."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Signals:
    """What ends a child: asked to, told to, and when its supervisor was killed."""

    stop: int = signal.SIGTERM
    force: int = signal.SIGKILL
    orphan: int = signal.SIGKILL


@dataclass(frozen=True, slots=True)
class Child:
    """One process to keep running."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path = Path("/")
    user: User | None = None
    log: Path | None = None  # None: lines go to `say`, each with the child's name in front
    ready: Callable[[], Awaitable[bool]] | None = None
    ready_within_s: float = 30.0
    before: Callable[[], Awaitable[None]] | None = None  # runs ahead of every start
    signals: Signals = field(default_factory=Signals)
    grace_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Server:
    """An embedded server that is ready to be started, and where it will answer."""

    url: str
    version: str
    child: Child


def unprivileged() -> User | None:
    """Nobody, if we are root (PostgreSQL refuses to run as root); otherwise ourselves."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError as error:
        raise StartError(
            "Started by root, the embedded servers run as user `nobody`, and this machine "
            "lacks it. Run as an ordinary user, or set KYMA_DATABASE_URL and KYMA_REDIS_URL."
        ) from error
    return User(entry.pw_name, entry.pw_uid, entry.pw_gid)


def popen_options(user: User | None, orphan_signal: int) -> dict[str, Any]:
    """Options with which every child starts: its own session, nobody's rights, tied to us."""
    options: dict[str, Any] = {"start_new_session": True, "stdin": subprocess.DEVNULL}
    if _LIBC is not None:
        options["preexec_fn"] = _tie_to_parent(orphan_signal)
    if user is not None:
        options |= {"user": user.uid, "group": user.gid, "extra_groups": []}
    return options


def _tie_to_parent(orphan_signal: int) -> Callable[[], None]:
    """Between fork and exec: ask the kernel for a signal at the parent's death.

    It must come after setuid, which clears the request; CPython runs the hook there.
    The kernel watches the *thread* that forked, so fork from one that stays.
    """
    parent = os.getpid()
    prctl = _LIBC.prctl if _LIBC is not None else None

    def tie() -> None:
        if prctl is not None and prctl(_PR_SET_PDEATHSIG, orphan_signal, 0, 0, 0) != 0:
            os._exit(127)
        if os.getppid() != parent:  # it died before the request was in place
            os._exit(127)

    return tie


def run_once(argv: Sequence[str], user: User | None, stdin: str | None = None) -> str:
    """Run a short helper such as initdb to its end; its output, or a StartError with it."""
    options = popen_options(user, signal.SIGKILL)
    if stdin is not None:
        del options["stdin"]
        options["input"] = stdin
    try:
        done: subprocess.CompletedProcess[str] = subprocess.run(  # noqa: S603 our own argv, no shell
            list(argv),
            **options,
            cwd="/",
            env=BARE_ENV,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
    except OSError as error:
        raise StartError(f"`{argv[0]}` could not be run: {error.strerror or error}.") from error
    if done.returncode != 0:
        raise StartError(f"`{argv[0]}` ended with code {done.returncode}:\n{done.stdout.strip()}")
    return done.stdout


# Nothing of the caller's environment reaches the servers: PGDATA, PGOPTIONS, LC_ALL
# and the like would change what they do.
BARE_ENV: Mapping[str, str] = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def blocked_at(path: Path) -> Path | None:
    """The outermost existing folder on the way to `path` that other users cannot enter."""
    for folder in [*reversed(path.absolute().parents), path.absolute()]:
        if folder.is_dir() and not folder.stat().st_mode & 0o001:
            return folder
    return None


def passage(path: Path, user: User | None) -> None:
    """Make a folder of ours that the server's user can pass through, whatever the umask."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o711 if user is not None else 0o700)


def own_folder(path: Path, user: User | None) -> None:
    """Make a folder that only the server's user may look into."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if user is not None:
        os.chown(path, user.uid, user.gid)


def check_owner(path: Path, user: User | None) -> None:
    """Refuse a folder that another user's server made: it could neither read nor lock it."""
    owner, expected = path.stat().st_uid, user.uid if user else os.geteuid()
    if owner != expected:
        raise StartError(
            f"{path} belongs to user id {owner}, but the server would run as user id {expected}. "
            "Start Kyma as the user who started it first, or set KYMA_DATA_DIR to another folder."
        )


def readable_program(program: Path, trees: Mapping[str, Path], user: User | None, to: Path) -> Path:
    """The program where `user` can run it: in place, or as a copy of its `trees` under `to`.

    `trees` maps a folder inside the copy to the folder it is copied from; the program
    lies in one of them. A venv under a 0700 home cannot be entered by `nobody`.
    """
    if user is None:
        return program
    with contextlib.suppress(StartError):
        run_once([str(program), "--version"], user)
        return program
    home, source = next(
        ((name, tree) for name, tree in trees.items() if program.is_relative_to(tree)), ("", None)
    )
    if source is None:
        raise StartError(
            f"User `{user.name}` cannot run {program}. Make it and its folders readable for "
            "everybody (chmod o+rX), or run Kyma as an ordinary user."
        )
    copy = to / home / program.relative_to(source)
    if not copy.exists():
        _publish(trees, to)
    run_once([str(copy), "--version"], user)
    return copy


def _publish(trees: Mapping[str, Path], to: Path) -> None:
    """Copy the trees world-readably; a copy cut short never gets the final name."""
    to.parent.mkdir(parents=True, exist_ok=True)
    to.parent.chmod(0o711)
    for left in to.parent.glob(f"{to.name}.tmp*"):
        shutil.rmtree(left)
    temporary = Path(tempfile.mkdtemp(prefix=f"{to.name}.tmp", dir=to.parent))
    for name, source in trees.items():
        shutil.copytree(source, temporary / name, symlinks=True)
    for path in [temporary, *temporary.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
    for path in temporary.rglob("bin/*"):
        path.chmod(0o755)
    if to.exists():
        shutil.rmtree(to)
    temporary.rename(to)


def holders(folder: Path, program: str) -> list[int]:
    """Processes named `program…` that work in `folder` (both servers change into theirs).

    Elsewhere than on Linux there is no /proc: then PostgreSQL's own lock file decides.
    """
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile, or is not ours to look at
            named = (entry / "comm").read_text().startswith(program)
            if named and (entry / "cwd").readlink() == folder.resolve():
                found.append(int(entry.name))
    return found


async def until_unheld(folder: Path, program: str, patience_s: float = 10.0) -> None:
    """Wait for the last server of a killed supervisor to leave; refuse one that stays."""
    deadline = time.monotonic() + patience_s
    while pids := holders(folder, program):
        if time.monotonic() > deadline:
            raise StartError(
                f"Another server (process {min(pids)}) already runs on {folder}. "
                f"Stop it (kill -INT {min(pids)}), or set KYMA_DATA_DIR to another folder."
            )
        await asyncio.sleep(0.05)


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether we could listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A loopback port that nobody uses at the moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def remembered_port(path: Path) -> int:
    """The port of the last run if it is still free, else a new one, written down."""
    if path.exists():
        text = path.read_text().strip()
        if text.isdecimal() and is_free(int(text)):
            return int(text)
    port = free_port()
    path.write_text(f"{port}\n")
    return port


async def http_answers(host: str, port: int, path: str) -> bool:
    """Whether a GET of `path` is answered with 200."""
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        return b" 200" in await reader.readline()
    except OSError:
        return False
    finally:
        writer.close()


class Supervisor:
    """Starts children in order, restarts those that exit, stops them in reverse order."""

    def __init__(self, say: Callable[[str], None] = print) -> None:
        self._say = say
        self._kept: list[_Kept] = []
        self._hurry = asyncio.Event()

    async def start(self, child: Child) -> None:
        """Start a child and wait until it answers; StartError if it does not."""
        kept = _Kept(child, self._say, self._hurry)
        self._kept.append(kept)  # ahead of the start, so that stop() finds it however we leave
        await kept.start()

    def pid(self, name: str) -> int:
        """The process id of a child by name (of its present incarnation)."""
        return next(kept.pid for kept in self._kept if kept.child.name == name)

    def hurry(self) -> None:
        """No more grace: whoever still runs is told to end now."""
        self._hurry.set()

    async def stop(self) -> None:
        """Stop every child, last started first."""
        while self._kept:
            await self._kept[-1].stop()
            self._kept.pop()


class _Kept:
    """One child, its process and the task that starts it again."""

    def __init__(self, child: Child, say: Callable[[str], None], hurry: asyncio.Event) -> None:
        self.child = child
        self._say = say
        self._hurry = hurry
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._pump: asyncio.Task[None] | None = None
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._log_from = 0

    @property
    def pid(self) -> int:
        """The present process."""
        assert self._process is not None, "not started"
        return self._process.pid

    async def start(self) -> None:
        process = await self._spawn()
        await self._until_ready(process)
        self._keeper = asyncio.create_task(self._keep(process))

    async def stop(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        process, signals = self._process, self.child.signals
        if process is not None and process.returncode is None:
            for number, patience_s in ((signals.stop, self.child.grace_s), (signals.force, 5.0)):
                if await self._ended_by(process, number, patience_s):
                    break
            else:
                await self._ended_by(process, signal.SIGKILL, 5.0)
        if self._pump is not None:
            await self._pump

    async def _ended_by(
        self, process: asyncio.subprocess.Process, number: int, patience_s: float
    ) -> bool:
        with contextlib.suppress(ProcessLookupError):  # it ended by itself
            process.send_signal(number)
        waiting = asyncio.ensure_future(process.wait())
        tasks: set[asyncio.Future[Any]] = {waiting}
        if number == self.child.signals.stop:
            tasks.add(hurry := asyncio.ensure_future(self._hurry.wait()))
        await asyncio.wait(tasks, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
        if number == self.child.signals.stop:
            hurry.cancel()
        if not waiting.done():
            waiting.cancel()
            self._say(f"{self.child.name} (process {process.pid}) did not stop; ending it.")
            return False
        return True

    async def _spawn(self) -> asyncio.subprocess.Process:
        child = self.child
        if child.before is not None:
            await child.before()
        log = self._open_log()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *child.argv,
                **popen_options(child.user, child.signals.orphan),
                env=dict(child.env),
                cwd=child.cwd,
                stdout=log or asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
        except OSError as error:
            raise StartError(f"{child.name} could not be started: {error}.") from error
        finally:
            if log is not None:
                log.close()
        if self._process.stdout is not None:
            self._pump = asyncio.create_task(self._prefix(self._process.stdout))
        return self._process

    def _open_log(self) -> IO[bytes] | None:
        path = self.child.log
        if path is None:
            return None
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > LOG_LIMIT_BYTES:
            path.replace(path.with_suffix(".log.1"))
        log = path.open("ab", buffering=0)
        self._log_from = log.tell()
        return log

    async def _prefix(self, stream: asyncio.StreamReader) -> None:
        """Pass lines on. Read in pieces: one overlong line must not end the reading."""
        rest = b""
        while piece := await stream.read(65536):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                self._pass_on(line)
        if rest:
            self._pass_on(rest)

    def _pass_on(self, line: bytes) -> None:
        text = line.decode(errors="replace")
        self._tail.append(text)
        self._say(f"{self.child.name} | {text}")

    async def _until_ready(self, process: asyncio.subprocess.Process) -> None:
        child = self.child
        deadline = time.monotonic() + child.ready_within_s
        while True:
            if process.returncode is not None:
                code = process.returncode
                raise StartError(f"{child.name} ended with code {code} at its start.{self._why()}")
            if child.ready is None or await self._probe(child.ready):
                return
            if time.monotonic() > deadline:
                raise StartError(
                    f"{child.name} did not answer within {child.ready_within_s:.0f} s.{self._why()}"
                )
            await asyncio.sleep(0.03)

    @staticmethod
    async def _probe(ready: Callable[[], Awaitable[bool]]) -> bool:
        try:
            # Not wait_for: before Python 3.12 it can swallow a cancellation (our Ctrl-C).
            async with asyncio.timeout(5.0):
                return await ready()
        except TimeoutError:
            return False

    def _why(self) -> str:
        """The child's last words, for the person who must mend it."""
        lines: Sequence[str] = tuple(self._tail)
        if (path := self.child.log) is not None:
            with path.open("rb") as log:
                log.seek(self._log_from)
                lines = log.read().decode(errors="replace").splitlines()[-TAIL_LINES:]
        where = f" Its log: {path}" if path else ""
        return where + "".join(f"\n  {self.child.name} | {line}" for line in lines)

    async def _keep(self, process: asyncio.subprocess.Process) -> None:
        delay_s, began = FIRST_BACKOFF_S, time.monotonic()
        while True:
            code = await process.wait()
            if time.monotonic() - began > STEADY_S:
                delay_s = FIRST_BACKOFF_S
            log = f" (log: {self.child.log})" if self.child.log else ""
            self._say(
                f"{self.child.name} ended with code {code}; it starts again in {delay_s:g} s{log}."
            )
            process = await self._respawn(delay_s)
            began = time.monotonic()
            delay_s = min(delay_s * 2, LAST_BACKOFF_S)

    async def _respawn(self, delay_s: float) -> asyncio.subprocess.Process:
        while True:
            await asyncio.sleep(delay_s)
            try:
                return await self._spawn()
            except StartError as error:
                self._say(str(error))
            delay_s = min(delay_s * 2, LAST_BACKOFF_S)
