"""`python -m bench.pinned CORES COMMAND…`: become another command, on the given cores only.

The affinity is set before the program begins, so that every thread it makes inherits it.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    cores, command = sys.argv[1], sys.argv[2:]
    os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
