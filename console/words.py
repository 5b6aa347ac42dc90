"""Texts that people wrote, made safe to stand in a page's Markdown."""

from __future__ import annotations

import re

MARKUP = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~$:&@])")


def plain(text: str) -> str:
    """`text` shown as it is: no formatting, images, formulas or line breaks in it.

    Streamlit still turns a bare address into a link to where it says.
    """
    return MARKUP.sub(r"\\\1", " ".join(text.split()))
