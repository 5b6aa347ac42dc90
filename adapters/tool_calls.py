"""A tool call that is told in pieces, and where in a stream it ends and another begins.

Providers tell it apart in different ways, and some not at all; whoever reads their streams, in
whichever dialect, goes by the one rule here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec


@dataclass(slots=True)
class ToolCall:
    """What was told of a call until now."""

    name: str = ""
    given: str = ""
    """The provider's id of it."""

    pieces: list[str] = field(default_factory=list)
    """Of its arguments, none of them empty."""

    again: bool = False
    """Its name came again after its end: an echo, or the head of another call like it."""

    @property
    def arguments(self) -> str:
        """All of them that came."""
        return "".join(self.pieces)

    @property
    def is_whole(self) -> bool:
        """Whether the arguments are all there: a JSON object that is closed."""
        end = next((piece for piece in reversed(self.pieces) if not piece.isspace()), "")
        if not end.rstrip().endswith("}"):
            return False  # without joining them: some providers repeat the name with each piece
        try:
            return isinstance(msgspec.json.decode(self.arguments), dict)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return False

    def is_followed_by(self, id: str, name: str, arguments: str) -> bool:
        """Whether a piece under its index begins another call.

        Another name always does, and so does another id with a name: the first one that comes
        before any arguments is only late. Without an id the same name tells after the end of the
        first call; some providers merely repeat it there: then arguments have to follow.
        """
        if id and id == self.given:
            return False
        if name and self.name and name != self.name:
            return True
        if id:
            return bool(name and (self.given or (self.name and self.pieces)))
        if not (name or self.again) or not self.is_whole:
            return False
        self.again = True
        return bool(arguments.strip())
