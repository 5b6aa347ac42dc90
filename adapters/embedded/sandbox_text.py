"""What the sandbox provider says and how it counts: its tokenizer, its sentences, its prompt size.

Pure functions. Knows nothing of HTTP, of faults or of chunks.
"""

import hashlib
import random
import re
from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]

# Every character falls in exactly one alternative, so the pieces joined are the text again,
# and a prefix of the pieces tokenizes to itself: a cut at N pieces counts as exactly N.
_PIECE = re.compile(r" ?[^\W\d_]{1,8}| ?\d{1,3}| ?[^\w\s]|_|\s+")

MEDIA_TOKENS = {"image_url": 85, "input_audio": 128, "video_url": 512, "file": 256}
MEDIA_WORDS = {
    "image_url": "image",
    "input_audio": "audio clip",
    "video_url": "video",
    "file": "file",
}
_MESSAGE_OVERHEAD = ("<message>", "</message>")
_QUOTED_PIECES = 24

_SUBJECTS = (
    "A calm river", "The night train", "An old lighthouse", "The morning market",
    "A careful reader", "The paper map", "A small garden", "The harbour clock",
)  # fmt: skip
_VERBS = (
    "follows", "remembers", "measures", "explains", "crosses", "collects", "repeats", "answers",
)  # fmt: skip
_OBJECTS = (
    "the shape of the valley", "a long list of questions", "every second wave", "the weather",
    "three different colours", "a quiet street", "the sound of rain", "the next station",
)  # fmt: skip
_ENDINGS = (
    "before noon", "without any hurry", "as it always has", "for nobody in particular",
    "once a day", "in plain words", "under a pale sky", "and starts again",
)  # fmt: skip


def pieces(text: str) -> list[str]:
    """The tokens of a text; joined they are the text."""
    return _PIECE.findall(text)


def seeded(*parts: object) -> random.Random:
    """The same parts give the same choices in every process and on every machine."""
    return random.Random(digest(*parts))  # noqa: S311 -- it varies words, it guards nothing


def digest(*parts: object) -> str:
    """A hash of the parts in their order."""
    joined = "\x1f".join(str(part) for part in parts)
    return hashlib.sha256(joined.encode("utf-8", "surrogatepass")).hexdigest()


def sentences(rng: random.Random) -> Iterator[str]:
    """Filler that reads as English, without end."""
    while True:
        words = (rng.choice(_SUBJECTS), rng.choice(_VERBS), rng.choice(_OBJECTS))
        yield f"{' '.join(words)} {rng.choice(_ENDINGS)}."


def prose(messages: list[Json], rng: random.Random, length: int | None) -> str:
    """A readable answer to the conversation; exactly `length` tokens when that is given."""
    opening = ["This is a sandbox answer."]
    shown = shown_media(messages)
    if shown:
        opening.append(f"I was shown {shown}.")
    opening.append(_quotation(messages))
    text = " ".join(part for part in opening if part)
    wanted = length if length is not None else len(pieces(text)) + rng.randint(12, 48)
    count = len(pieces(text))
    parts = [text]
    for sentence in sentences(rng):
        if count >= wanted:
            break
        parts.append(sentence)
        count += len(pieces(" " + sentence))
    full = " ".join(parts)
    return full if length is None else "".join(pieces(full)[:length])


def _quotation(messages: list[Json]) -> str:
    spoken = [one for one in messages if one.get("role") not in ("system", "developer")]
    last = spoken[-1] if spoken else {}
    if last.get("role") == "tool":
        return f'The tool returned "{_excerpt(text_of(last))}".'
    question = last_user_text(messages)
    return f'You asked "{_excerpt(question)}".' if question.strip() else ""


def _excerpt(text: str) -> str:
    found = pieces(text.strip())
    return "".join(found[:_QUOTED_PIECES]) + ("…" if len(found) > _QUOTED_PIECES else "")


def text_of(message: Json) -> str:
    """The written part of a message's content."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = (part.get("text") or part.get("refusal") for part in content)
    return "\n".join(text for text in texts if isinstance(text, str))


def last_user_text(messages: list[Json]) -> str:
    """What the user wrote last; it decides the answer."""
    for message in reversed(messages):
        if message.get("role") == "user":
            return text_of(message)
    return ""


def shown_media(messages: list[Json]) -> str:
    """`1 image and 2 audio clips`, or nothing."""
    counts: dict[str, int] = {}
    for message in messages:
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            word = MEDIA_WORDS.get(part["type"])
            if word:
                counts[word] = counts.get(word, 0) + 1
    named = [f"{count} {word}{'s' if count > 1 else ''}" for word, count in counts.items()]
    return " and ".join(named)


def prompt_pieces(messages: list[Json], tools: list[Json]) -> list[str]:
    """Everything the caller sent, as tokens in order: tools first, as providers cache them."""
    found: list[str] = []
    for tool in tools:
        found += pieces(str(tool))
    for message in messages:
        found += _MESSAGE_OVERHEAD
        found.append(str(message.get("role")))
        found += pieces(str(message.get("name") or ""))
        found += _content_pieces(message.get("content"))
        for call in message.get("tool_calls") or ():
            found += pieces(str(call))
    return found


def _content_pieces(content: Any) -> list[str]:
    if isinstance(content, str):
        return pieces(content)
    found: list[str] = []
    for part in content or ():
        size = MEDIA_TOKENS.get(part["type"])
        if size is None:
            found += pieces(text_of({"content": [part]}))
        else:
            found += [f"<{part['type']} {digest(part)}>"] * size
    return found
