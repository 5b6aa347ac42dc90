"""`python -m bench.sampler FILE MODULE`: run a module and sample it by its own CPU time.

SIGUSR1 begins, SIGUSR2 ends and writes FILE. In between SIGPROF interrupts the main thread
as CPU time passes (at the kernel's timer ticks, mostly 250 a second), so what is counted is
work, not waiting. Time inside a C function counts for the Python line that called it.
"""

from __future__ import annotations

import runpy
import signal
import sys
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType

INTERVAL_S = 0.001
SITE = "site-packages/"
ROOT = str(Path(__file__).resolve().parent.parent)


class Samples:
    """Counts of code objects: on top of the stack, and anywhere in it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._count = 0
        self._own: Counter[tuple[CodeType, int]] = Counter()
        self._total: Counter[CodeType] = Counter()

    def begin(self, *_: object) -> None:
        """Start the clock."""
        signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, INTERVAL_S, INTERVAL_S)

    def end(self, *_: object) -> None:
        """Stop the clock and write the figures, whole or not at all."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        staging = self._path.with_suffix(".tmp")
        staging.write_text(self._text())
        staging.replace(self._path)

    def _sample(self, _number: int, frame: FrameType | None) -> None:
        if frame is None:
            return
        self._count += 1
        self._own[frame.f_code, frame.f_lineno] += 1
        seen: set[CodeType] = set()
        walked: FrameType | None = frame
        while walked is not None:
            seen.add(walked.f_code)
            walked = walked.f_back
        self._total.update(seen)

    def _text(self) -> str:
        own: Counter[CodeType] = Counter()
        for (code, _line), count in self._own.items():
            own[code] += count
        lines = {
            f"{_place(code)}:{line} {code.co_qualname}": count
            for (code, line), count in self._own.items()
        }
        return "\n\n".join(
            [
                f"{self._count:,} samples, spread evenly over the gateway's CPU time",
                "Own time by function\n" + self._ranked(_named(own)),
                "Own time by line\n" + self._ranked(lines),
                "Time in the function and what it calls\n" + self._ranked(_named(self._total)),
                "Own time by package\n" + self._ranked(_packages(own)),
            ]
        )

    def _ranked(self, counts: dict[str, int]) -> str:
        ranked = sorted(counts.items(), key=lambda item: item[1], reverse=True)[:40]
        return "\n".join(f"{count / max(1, self._count):7.2%}  {name}" for name, count in ranked)


def _named(counts: Counter[CodeType]) -> dict[str, int]:
    named: Counter[str] = Counter()
    for code, count in counts.items():
        named[f"{_place(code)} {code.co_qualname}"] += count
    return named


def _packages(counts: Counter[CodeType]) -> dict[str, int]:
    packages: Counter[str] = Counter()
    for code, count in counts.items():
        parts = _place(code).split("/")
        packages["/".join(parts[:2]) if parts[0] in {"adapters", "kyma"} else parts[0]] += count
    return packages


def _place(code: CodeType) -> str:
    """The file without what is particular to this machine."""
    path = code.co_filename
    if SITE in path:
        return path.rpartition(SITE)[2]
    if path.startswith(ROOT + "/"):
        return path.removeprefix(ROOT + "/")
    return path.rpartition("/lib/python")[2] or path


def main() -> None:
    samples = Samples(Path(sys.argv[1]))
    signal.signal(signal.SIGUSR1, samples.begin)
    signal.signal(signal.SIGUSR2, samples.end)
    module = sys.argv[2]
    sys.argv = [module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
