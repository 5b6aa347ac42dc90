"""A precise metronome for the open loop, on Linux's timerfd.

uvloop's own timers count in whole milliseconds, which would send the requests of a
2,000-per-second schedule in pairs and add half a millisecond to every latency.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from collections.abc import Callable

_CLOCK_MONOTONIC = 1
_NANOS = 1_000_000_000
_LIBC = ctypes.CDLL(None, use_errno=True)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanos", ctypes.c_long))


class _Timerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("first", _Timespec))


class Ticker:
    """Calls `due` with each moment of the schedule (ns, monotonic), as soon as it has come.

    Moments that were missed while the loop was busy are all delivered, each with its own time.
    """

    def __init__(self, rate: float, due: Callable[[int], None]) -> None:
        self._interval = int(_NANOS / rate)
        self._due = due
        self._moment = 0
        self._file = -1

    def __enter__(self) -> Ticker:
        self._file = _LIBC.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._file < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        step = _Timespec(*divmod(self._interval, _NANOS))
        self._moment = time.monotonic_ns()
        if _LIBC.timerfd_settime(self._file, 0, ctypes.byref(_Timerspec(step, step)), None) != 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")
        asyncio.get_running_loop().add_reader(self._file, self._tick)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._file)
        os.close(self._file)

    def _tick(self) -> None:
        try:
            passed = int.from_bytes(os.read(self._file, 8), "little")
        except BlockingIOError:
            return
        for _ in range(passed):
            self._moment += self._interval
            self._due(self._moment)
