"""Where Chromium is. It cannot be had from a package index, so a machine may lack it."""

from __future__ import annotations

import os
import shutil


def find_chromium() -> str | None:
    """Its path, or None."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


def chromium() -> str:
    """Its path; a machine without it gets told what to do."""
    found = find_chromium()
    assert found, "the browser test needs Chromium: apt-get install chromium, or set CHROMIUM"
    return found
