"""What the parts of a message are that are no text, by what they say of themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

PICTURES = frozenset({"image_url", "image", "input_image"})
SOUNDS = frozenset({"input_audio", "audio_url", "audio"})
WRAPPINGS = ("image_url", "video_url", "file", "source")
"""Fields of a part in which a medium stands, or the address where it does."""

PICTURE_TOKENS = 2_600
"""Upper figure for one picture: Google's largest tiling of a 4-megapixel image is 2,580.

A model that reads more of one says so in its row (`Model.picture_tokens`).
"""

KIND_CHARACTERS = 16
"""So many of a media type are looked at: enough to know its family."""


def is_picture(part: Mapping[str, Any]) -> bool:
    """Whether a part is a picture, and not a document or a film in a picture's wrapping."""
    return _is_among(PICTURES, part) and all(kind.startswith("image/") for kind in _kinds(part))


def is_sound(part: Mapping[str, Any]) -> bool:
    """Whether a part is a sound, in whatever wrapping it says so."""
    return _is_among(SOUNDS, part) or any(kind.startswith("audio/") for kind in _kinds(part))


def _is_among(kinds: frozenset[str], part: Mapping[str, Any]) -> bool:
    kind = part.get("type")
    return isinstance(kind, str) and kind in kinds


def _kinds(part: Mapping[str, Any]) -> Iterator[str]:
    """The media types that a part tells, of its source or its data URI, in small letters."""
    for wrapping in WRAPPINGS:
        given = part.get(wrapping)
        for name, value in given.items() if isinstance(given, Mapping) else (("url", given),):
            if not isinstance(value, str):
                continue
            if name == "media_type":
                yield value[:KIND_CHARACTERS].lower()
            elif value[:5].lower() == "data:":
                yield value[5 : 5 + KIND_CHARACTERS].lower()
