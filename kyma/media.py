"""What the parts of a message are that are no text, by what they say of themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

PICTURES = frozenset({"image_url", "image", "input_image"})
SOUNDS = frozenset({"input_audio", "audio_url", "audio"})
WRAPPINGS = ("image_url", "video_url", "file", "source")
"""Fields of a part in which a medium stands, or the address where it does."""

MEDIA = frozenset({*WRAPPINGS, *SOUNDS, *PICTURES, "video"}) - {"source"}
"""Fields that make a part more than its text, whatever it says of its type.

The `source` of a text is where somebody found it, and no model looks there.
"""

WRAPPINGS_OF_TEXT = tuple(name for name in WRAPPINGS if name in MEDIA)

MAX_ADDRESS = 4_096
"""So many characters are looked at of what may be an address, or a medium of megabytes."""

PICTURE_TOKENS = 4_800
"""The most that any model reads of one picture.

Claude from 4.7 on at most 4,784, before 1,568 (platform.claude.com, vision, 2026-08). Kimi 4,096:
its processor cuts at most 16,384 patches, four to a token. Google 2,580, of four megapixels. Qwen
2,560, unless its caller asks for more (`wire.sold`).
"""

LIKELY_PICTURE_TOKENS = 2_600
"""What limits are reckoned by until the model told: what is too much is given back."""

KIND_CHARACTERS = 24
"""So many of a media type are looked at: enough to know its family."""

NAMED_SOUNDS = (
    *(".mp3", ".wav", ".ogg", ".oga", ".opus", ".flac", ".m4a", ".aac", ".aif", ".aiff", ".weba"),
    *(".wma", ".amr"),
)
"""How the names and addresses of sounds end."""

UNTOLD = ("application/octet-stream", "binary/")
"""Media types that say nothing, so that a name is asked."""


def is_picture(part: Mapping[str, Any]) -> bool:
    """Whether a part is a picture, and not a document or a film in a picture's wrapping."""
    return _is_among(PICTURES, part) and all(kind.startswith("image/") for kind in _kinds(part))


def is_sound(part: Mapping[str, Any]) -> bool:
    """Whether a part is a sound, in whatever wrapping it says so, or is named like one."""
    kinds = [*_kinds(part)]
    if _is_among(SOUNDS, part) or any(
        kind.startswith(("audio/", "application/ogg")) for kind in kinds
    ):
        return True
    told = any(not kind.startswith(UNTOLD) for kind in kinds)
    return not told and any(name.endswith(NAMED_SOUNDS) for name in _names(part))


def _is_among(kinds: frozenset[str], part: Mapping[str, Any]) -> bool:
    kind = part.get("type")
    return isinstance(kind, str) and kind in kinds


def _strings(part: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What stands in a part's wrapping, by its field, without the blanks before it."""
    for wrapping in WRAPPINGS if part.get("type") != "text" else WRAPPINGS_OF_TEXT:
        given = part.get(wrapping)
        for name, value in given.items() if isinstance(given, Mapping) else (("url", given),):
            if isinstance(value, str):
                yield name, value[:MAX_ADDRESS].lstrip()


def _kinds(part: Mapping[str, Any]) -> Iterator[str]:
    """The media types that a part tells, of its source or its data URI, in small letters."""
    for name, value in _strings(part):
        if name == "media_type":
            yield value[:KIND_CHARACTERS].lower()
        elif value[:5].lower() == "data:":
            yield value[5 : 5 + KIND_CHARACTERS].lstrip().lower()


def _names(part: Mapping[str, Any]) -> Iterator[str]:
    """What a part's medium is called, and the path of its address, in small letters."""
    for name, value in _strings(part):
        if name == "filename" or value[:4].lower() == "http":
            yield re.split("[?#]", value, maxsplit=1)[0].rstrip().lower()
