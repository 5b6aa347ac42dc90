"""How long Redis may take, where our own slowness does not count."""

from __future__ import annotations

import asyncio

TURNS = 10
ROUNDS = 5
"""So often at most: a process that is never in time does not wait for ever."""

LATE_S = 0.02


class Budget:
    """`with Budget(seconds)`: a block that takes longer ends with `TimeoutError`.

    On a loaded loop the timer fires before the answer that lies in the socket is read: a few
    turns of the loop tell the two apart. A timer that itself fires late tells that the loop was
    busy, perhaps before it sent anything: then Redis has its time once more.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._rounds = 0
        self._is_over = self._is_spent = False

    def __enter__(self) -> None:
        self._arm()

    def _arm(self) -> None:
        self._rounds += 1
        self._due_at = self._loop.time() + self._seconds
        self._timer = self._loop.call_at(self._due_at, self._due)

    def _due(self) -> None:
        if self._loop.time() > self._due_at + LATE_S and self._rounds < ROUNDS:
            self._arm()
        else:
            self._turn(TURNS)

    def _turn(self, left: int) -> None:
        if self._is_over or self._task is None:
            return
        if left:
            self._loop.call_soon(self._turn, left - 1)
        else:
            self._is_spent = True
            self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._is_over = True
        self._timer.cancel()
        if self._is_spent and self._task is not None:
            self._task.uncancel()
            if kind is asyncio.CancelledError:
                raise TimeoutError from None
