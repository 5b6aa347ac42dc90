"""`python -m adapters`: the `kyma` command, and a quiet end for whoever stops it while it loads."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command; a Ctrl-C in the seconds of its imports ends it without a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from adapters.cli import main as run  # noqa: PLC0415 - the seconds in question

    signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


if __name__ == "__main__":
    main()
