"""The embedded servers and their supervisor, with real processes and real signals."""

from __future__ import annotations

import asyncio
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest
import redis.asyncio

from adapters.embedded import postgres
from adapters.embedded import redis as embedded_redis
from adapters.embedded.machine import together
from adapters.embedded.processes import (
    Child,
    StartError,
    Supervisor,
    User,
    free_port,
    popen_options,
    readable_program,
    unprivileged,
    until_unheld,
)
from adapters.settings import ROOT, child_environment
from tests.servers import temporary_data_dir

# Survives any kill, though not a power cut: quick, and commits mean what they say.
UNSYNCED = {"fsync": "off"}

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def data_dir() -> Iterator[Path]:
    with temporary_data_dir() as path:
        yield path


@asynccontextmanager
async def running_postgres(data_dir: Path) -> AsyncIterator[tuple[str, Supervisor]]:
    supervisor = Supervisor(lambda _: None)
    server = postgres.prepare(data_dir, None, data_dir / "pg.log", UNSYNCED, sync=False)
    try:
        await supervisor.start(server.child)
        yield server.url, supervisor
    finally:
        await supervisor.stop()


async def query(url: str, sql: str) -> Any:
    connection = await asyncpg.connect(url, timeout=5)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def until(true: Callable[[], bool], patience_s: float = 15.0) -> None:
    deadline = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.05)


async def test_postgres_keeps_its_data_and_its_port_over_a_restart(data_dir: Path) -> None:
    async with running_postgres(data_dir) as (first, _):
        await query(first, "CREATE TABLE kept AS SELECT 7 AS seven")
    async with running_postgres(data_dir) as (second, _):
        assert second == first
        assert await query(second, "SELECT seven FROM kept") == 7


async def test_postgres_is_set_up_as_documented(data_dir: Path) -> None:
    async with running_postgres(data_dir) as (url, supervisor):
        assert await query(url, "SHOW max_connections") == "200"
        assert await query(url, "SHOW shared_buffers") == "256MB"
        assert await query(url, "SHOW server_encoding") == "UTF8"
        process = psutil.Process(supervisor.pid("postgres"))
        listening = {c.laddr.ip for c in process.net_connections() if c.status == "LISTEN"}
        assert listening == {"127.0.0.1"}
        user = unprivileged()
        assert process.uids().effective == (user.uid if user else os.geteuid())


async def test_postgres_wants_its_password(data_dir: Path) -> None:
    async with running_postgres(data_dir) as (url, _):
        wrong = re.sub(r"kyma:\w+@", "kyma:guess@", url)
        with pytest.raises(asyncpg.InvalidPasswordError):
            await query(wrong, "SELECT 1")
    assert (data_dir / "pg" / "password").stat().st_mode & 0o777 == 0o600


async def test_postgres_killed_outright_comes_back_with_its_data(data_dir: Path) -> None:
    async with running_postgres(data_dir) as (url, supervisor):
        await query(url, "CREATE TABLE kept AS SELECT 7 AS seven")
        killed = supervisor.pid("postgres")
        os.kill(killed, signal.SIGKILL)
        await until(lambda: supervisor.pid("postgres") != killed)
        for _ in range(200):
            try:
                assert await query(url, "SELECT seven FROM kept") == 7
                break
            except (OSError, asyncpg.CannotConnectNowError):
                await asyncio.sleep(0.05)
        else:
            pytest.fail("PostgreSQL did not come back")


async def test_a_first_run_cut_short_starts_over(data_dir: Path) -> None:
    half = data_dir / "pg.tmp" / "data"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    async with running_postgres(data_dir) as (url, _):
        assert await query(url, "SELECT 1") == 1
    assert not (data_dir / "pg.tmp").exists()


async def test_a_lock_file_that_names_somebody_else_is_not_in_the_way(data_dir: Path) -> None:
    async with running_postgres(data_dir) as (url, _):
        port = url.rpartition(":")[2].partition("/")[0]
    # The number of the dead server now belongs to another process of the same user.
    options = popen_options(unprivileged(), signal.SIGKILL)
    other = await asyncio.create_subprocess_exec("sleep", "60", **options)
    try:
        lock = data_dir / "pg" / "data" / "postmaster.pid"
        lock.write_text(f"{other.pid}\n{lock.parent}\n{int(time.time())}\n{port}\n\n127.0.0.1\n")
        async with running_postgres(data_dir) as (url, _):
            assert await query(url, "SELECT 1") == 1
    finally:
        other.kill()
        await other.wait()


async def test_a_taken_port_is_left_to_its_owner(data_dir: Path) -> None:
    async with running_postgres(data_dir) as (first, _):
        pass
    port = int(first.rpartition(":")[2].partition("/")[0])
    with socket.create_server(("127.0.0.1", port)):
        async with running_postgres(data_dir) as (second, _):
            assert second != first
            assert await query(second, "SELECT 1") == 1


async def test_a_folder_with_a_live_server_is_refused_by_name(data_dir: Path) -> None:
    async with running_postgres(data_dir) as (_, supervisor):
        with pytest.raises(StartError, match=f"process {supervisor.pid('postgres')}"):
            await until_unheld(data_dir / "pg" / "data", "postgres", patience_s=0.1)


async def test_a_database_of_another_version_is_refused(data_dir: Path) -> None:
    async with running_postgres(data_dir):
        pass
    (data_dir / "pg" / "data" / "PG_VERSION").write_text("9\n")
    with pytest.raises(StartError, match=r"made by PostgreSQL 9.*KYMA_PG_BIN"):
        postgres.prepare(data_dir)


async def test_half_a_database_is_refused(data_dir: Path) -> None:
    async with running_postgres(data_dir):
        pass
    (data_dir / "pg" / "data" / "PG_VERSION").unlink()
    with pytest.raises(StartError, match="no whole database"):
        postgres.prepare(data_dir)


async def test_a_wrong_program_folder_is_named(data_dir: Path) -> None:
    with pytest.raises(StartError, match=f"KYMA_PG_BIN is {data_dir}"):
        postgres.prepare(data_dir, data_dir)


async def test_redis_keeps_its_data_even_when_killed(data_dir: Path) -> None:
    supervisor = Supervisor(lambda _: None)
    server = embedded_redis.prepare(data_dir, data_dir / "redis.log")
    try:
        await supervisor.start(server.child)
        async with redis.asyncio.Redis.from_url(server.url) as client:
            await client.set("kept", "yes")
            assert (await client.config_get("appendfsync"))["appendfsync"] == "everysec"
        killed = supervisor.pid("redis")
        os.kill(killed, signal.SIGKILL)
        await until(lambda: supervisor.pid("redis") != killed)
    finally:
        await supervisor.stop()
    again = embedded_redis.prepare(data_dir, data_dir / "redis.log")
    assert again.url == server.url
    try:
        await supervisor.start(again.child)
        async with redis.asyncio.Redis.from_url(again.url) as client:
            assert await client.get("kept") == b"yes"
        async with redis.asyncio.Redis.from_url(re.sub(r":\w+@", "", again.url)) as stranger:
            with pytest.raises(redis.exceptions.AuthenticationError):
                await stranger.ping()
    finally:
        await supervisor.stop()


def child(name: str, code: str, **more: Any) -> Child:
    return Child(name, [sys.executable, "-c", code], child_environment({}), **more)


async def test_a_crashed_child_starts_again_and_is_told_of() -> None:
    said: list[str] = []
    supervisor = Supervisor(said.append)
    await supervisor.start(
        child("fragile", "print('hello', flush=True); import time; time.sleep(60)")
    )
    await until(lambda: "fragile | hello" in said)
    first = supervisor.pid("fragile")
    os.kill(first, signal.SIGKILL)
    await until(lambda: supervisor.pid("fragile") != first)
    await until(lambda: said.count("fragile | hello") == 2)
    second = supervisor.pid("fragile")
    await supervisor.stop()
    assert not psutil.pid_exists(second)
    assert any("fragile ended with code -9" in line for line in said)


async def test_children_stop_last_started_first_and_a_deaf_one_is_ended() -> None:
    said: list[str] = []
    supervisor = Supervisor(said.append)
    polite = (
        "import signal,sys,time\n"
        "signal.signal(15, lambda *_: (print('bye', flush=True), sys.exit()))"
    )
    deaf = "import signal,time\nsignal.signal(15, signal.SIG_IGN)"
    wait = "\nprint('up', flush=True)\ntime.sleep(60)"
    for name, code in (("first", polite), ("deaf", deaf), ("last", polite)):
        await supervisor.start(child(name, code + wait, grace_s=0.3))
        await until(partial(said.__contains__, f"{name} | up"))
    pids = [supervisor.pid(name) for name in ("first", "deaf", "last")]
    await supervisor.stop()
    assert not any(map(psutil.pid_exists, pids))
    told = [line for line in said if "bye" in line or "did not stop" in line]
    assert told[0] == "last | bye"
    assert told[1].startswith("deaf (process")
    assert told[2] == "first | bye"


async def test_a_child_that_fails_at_once_is_reported_with_its_last_words(tmp_path: Path) -> None:
    supervisor = Supervisor(lambda _: None)

    async def never() -> bool:
        return False

    broken = child("broken", "raise SystemExit('no such table')", log=tmp_path / "l", ready=never)
    with pytest.raises(StartError, match=r"(?s)broken ended with code 1.*no such table"):
        await supervisor.start(broken)
    await supervisor.stop()


async def test_one_failure_of_several_starts_is_told_plainly() -> None:
    supervisor = Supervisor(lambda _: None)

    async def never() -> bool:
        return False

    slow = child("slow", "import time; time.sleep(60)", ready=never)
    broken = child("broken", "raise SystemExit(3)", ready=never)
    with pytest.raises(StartError, match="broken ended with code 3"):
        await together(supervisor.start(each) for each in (slow, broken))
    left = supervisor.pid("slow")
    await supervisor.stop()
    assert not psutil.pid_exists(left)


@contextmanager
def up(
    data_dir: Path, python: str = sys.executable, **options: Any
) -> Iterator[subprocess.Popen[str]]:
    """`kyma up --only-servers`; stopped at the end if it still runs."""
    environment = {"KYMA_DATA_DIR": str(data_dir), "KYMA_DATABASE_URL": "", "KYMA_REDIS_URL": ""}
    process = subprocess.Popen(
        [python, "-m", "adapters", "up", *options.pop("flags", ["--only-servers"])],
        env=child_environment(environment | options.pop("env", {})),
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **options,
    )
    try:
        yield process
    finally:
        process.terminate()  # and wait: its servers write to the data dir until they end
        process.communicate(timeout=60)


def told(process: subprocess.Popen[str], prefix: str) -> str:
    """Read on to the line with this prefix; the rest of it."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if line.startswith(prefix):
            return line.removeprefix(prefix).strip()
    raise AssertionError(f"no line {prefix!r} in {seen}")


async def test_up_ends_well_on_ctrl_c_and_refuses_a_second_one(data_dir: Path) -> None:
    with up(data_dir) as first:
        told(first, "export KYMA_REDIS_URL=")
        with up(data_dir) as second:
            text, _ = second.communicate(timeout=30)
            assert second.returncode == 1
            assert f"process {first.pid}" in text
            assert "KYMA_DATA_DIR" in text
        first.send_signal(signal.SIGINT)
        text, _ = first.communicate(timeout=30)
        assert first.returncode == 0
        assert f"stopped; data kept in {data_dir}" in text


def has_loaded(pid: int, library: str) -> bool:
    return library in Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.parametrize("phase", ["it loads", "it begins"])
async def test_ctrl_c_ends_a_start_at_any_time_without_a_traceback(
    data_dir: Path, phase: str
) -> None:
    with up(data_dir) as process:
        if phase == "it loads":
            await until(lambda: has_loaded(process.pid, "pydantic_core"))
        else:
            await until((data_dir / "lock").exists)
        process.send_signal(signal.SIGINT)
        text, _ = process.communicate(timeout=30)
    assert "Traceback" not in text
    assert process.returncode in {0, 1, -signal.SIGINT}


@pytest.mark.parametrize("kept", ["", '{"key_pepper": "abc', "[]"])
async def test_secrets_that_cannot_be_read_are_not_replaced(data_dir: Path, kept: str) -> None:
    (data_dir / "secrets.json").write_text(kept)
    with up(data_dir, flags=[]) as process:
        text, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "secrets.json cannot be read" in text
    assert "Traceback" not in text
    assert (data_dir / "secrets.json").read_text() == kept


async def test_a_file_where_the_data_folder_should_be_is_named(data_dir: Path) -> None:
    place = data_dir / "file"
    place.write_text("x")
    with up(place) as process:
        text, _ = process.communicate(timeout=30)
    assert f"{place} cannot be made (it is a file)" in text
    assert "Traceback" not in text


async def test_a_redis_that_is_away_is_told_of_before_anything_else(data_dir: Path) -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    with up(data_dir, env={"KYMA_REDIS_URL": url}) as process:
        said = told(process, "Note: nothing answers at KYMA_REDIS_URL, ")
    assert said.startswith(url.removeprefix("redis://").removesuffix("/0"))


async def test_nothing_outlives_a_killed_up_and_the_next_one_recovers(data_dir: Path) -> None:
    with up(data_dir) as process:
        url = told(process, "export KYMA_DATABASE_URL=")
        told(process, "export KYMA_REDIS_URL=")
        await query(url, "CREATE TABLE kept AS SELECT 7 AS seven")
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) > 2
        process.kill()
    with up(data_dir) as process:  # at once: it waits for the last of them to leave
        url = told(process, "export KYMA_DATABASE_URL=")
        assert await query(url, "SELECT seven FROM kept") == 7
        await until(lambda: not any(child.is_running() for child in children))


SYSTEM_PYTHON = f"/usr/bin/python3.{sys.version_info.minor}"


def runs(rights: dict[str, Any], packages: str, python: str) -> bool:
    environment = child_environment({"PYTHONPATH": packages})
    try:
        done = subprocess.run(
            [python, "-c", "import adapters.cli"], cwd=ROOT, env=environment, check=False, **rights
        )
    except OSError:
        return False
    return done.returncode == 0


@AS_ROOT
async def test_up_works_for_an_ordinary_user(data_dir: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    rights: dict[str, Any] = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    home = data_dir / "home"
    home.mkdir(mode=0o700)
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    # Our own interpreter may lie below a closed home; the packages fit one of the same version.
    # (redis wants `async_timeout` before Python 3.11.3, where asyncio's own does as well.)
    shims = data_dir / "shims"
    shims.mkdir()
    (shims / "async_timeout.py").write_text("from asyncio import timeout\n")
    packages = f"{sysconfig.get_path('purelib')}:{shims}"
    environment = {"HOME": str(home), "PYTHONPATH": packages}
    python = next(filter(partial(runs, rights, packages), (sys.executable, SYSTEM_PYTHON)), None)
    if python is None:
        pytest.skip("no interpreter, or not the checkout, is open to other users")
    with up(home / ".kyma", python, env=environment, **rights) as process:
        url = told(process, "export KYMA_DATABASE_URL=")
        assert await query(url, "SELECT 1") == 1
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode == 0
    assert (home / ".kyma").stat().st_mode & 0o777 == 0o700


@AS_ROOT
def test_programs_below_a_closed_folder_are_copied_for_nobody(data_dir: Path) -> None:
    closed, user = data_dir / "closed", unprivileged()
    closed.mkdir(mode=0o700)
    programs = postgres.find(None)
    trees = {name: closed / name for name in programs.trees}
    for name, source in programs.trees.items():
        shutil.copytree(source, trees[name], symlinks=True)
    package, source = next(iter(programs.trees.items()))
    program = trees[package] / programs.bin.relative_to(source) / "postgres"
    assert isinstance(user, User)
    copy = readable_program(program, trees, user, data_dir / "bin" / "pg")
    assert copy.is_relative_to(data_dir / "bin" / "pg")
    assert closed.stat().st_mode & 0o777 == 0o700
    assert readable_program(program, trees, user, data_dir / "bin" / "pg") == copy
    with pytest.raises(StartError, match="chmod"):
        readable_program(program, {}, user, data_dir / "bin" / "other")
