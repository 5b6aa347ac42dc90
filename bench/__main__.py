"""`python -m bench`: measure the gateway. `python -m bench profile`: see where its time goes."""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from adapters.embedded.processes import StartError
from bench import database, meters, report
from bench.phases import FULL, QUICK, Phases, Plan, Result, problems
from bench.profile import profile
from bench.stack import Say, Stack, clock_text


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("command", nargs="?", choices=("run", "profile"), default="run")
    parser.add_argument("--quick", action="store_true", help="under a minute, without the soak")
    parser.add_argument("--soak", type=int, metavar="N", help="requests of the soak; 0: none")
    parser.add_argument("--accounts", type=int, metavar="A", help="accounts to send as")
    parser.add_argument("--model", help="a model id of the catalogue")
    parser.add_argument("--scale", type=float, default=1.0, help="multiply every duration")
    parser.add_argument("--seconds", type=float, default=10.0, help="of the profile")
    parser.add_argument("--stream", action="store_true", help="profile streams, not whole answers")
    parser.add_argument("--out", type=Path, default=report.FOLDER, help="folder of the results")
    parser.add_argument("--gateway-module", default="adapters.http.serve", help=argparse.SUPPRESS)
    return parser.parse_args()


def _plan(options: argparse.Namespace) -> Plan:
    plan = QUICK if options.quick else FULL
    chosen = {"soak": options.soak, "accounts": options.accounts, "model": options.model}
    plan = replace(plan, **{name: value for name, value in chosen.items() if value is not None})
    if options.scale == 1.0:
        return plan
    seconds = {
        name: getattr(plan, name) * options.scale
        for name in ("whole_s", "open_s", "stream_s", "at_once_s")
    }
    return replace(plan, name=f"{plan.name} × {options.scale:g}", **seconds)


@contextmanager
def _alone() -> Iterator[None]:
    """Two benchmarks at once would share the two cores and both measure nonsense."""
    folder = os.open(Path(__file__).parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise RuntimeError("another benchmark of this checkout is running; wait for it") from None
    finally:
        os.close(folder)


async def _run(options: argparse.Namespace, say: Say) -> int:
    plan = _plan(options)
    async with Stack(say, plan.accounts, module=options.gateway_module) as stack:
        results: Result = {
            "at": clock_text(),
            "facts": meters.facts(),
            "servers": stack.versions,
            **await Phases(stack, plan, say).all(),
        }
        results["audit"] = await database.audit(stack.database_url)
        results["log_events"] = stack.log_events()
        results["problems"] = problems(results, results["audit"], stack)
        stack.keep_logs = bool(results["problems"])
    print("\n" + report.write(results, options.out))
    return 1 if results["problems"] else 0


async def _profile(options: argparse.Namespace, say: Say) -> int:
    plan = _plan(options)
    text = await profile(say, plan, options.gateway_module, options.seconds, stream=options.stream)
    options.out.mkdir(exist_ok=True)
    (options.out / "profile.txt").write_text(text)
    print("\n" + text)
    return 0


async def _main(options: argparse.Namespace) -> int:
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:6.1f} s] {text}", flush=True)

    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await (_profile if options.command == "profile" else _run)(options, say)


def main() -> int:
    options = _options()
    try:
        with _alone():
            return asyncio.run(_main(options))
    except (StartError, RuntimeError) as error:
        print(f"bench: {error}", file=sys.stderr)
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("bench: stopped", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
