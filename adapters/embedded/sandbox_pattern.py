"""Text that matches a regular expression of the kind found in JSON schemas.

Knows literals, classes, groups, alternation and counted repeats; look-arounds and back-references
it does not. The caller checks the result, so an unknown construct costs a refusal, not a lie.
"""

import random
import string
from dataclasses import dataclass

_ESCAPES = {
    "d": string.digits,
    "w": string.ascii_lowercase + string.digits,
    "s": " ",
    "D": string.ascii_lowercase,
    "W": "-",
    "S": string.ascii_lowercase,
    "n": "\n",
    "t": "\t",
    "b": "",
    "B": "",
}
_PRINTABLE = string.ascii_letters + string.digits + " -_.:,/"
_MORE = 3  # how far an open-ended repeat goes beyond its least count
_MOST_REPEATS = 1_000


def text_matching(pattern: str, rng: random.Random) -> str:
    """A text the pattern most likely matches."""
    return _Reader(pattern, rng).alternation()


@dataclass(slots=True)
class _Reader:
    pattern: str
    rng: random.Random
    at: int = 0

    def alternation(self) -> str:
        branches = [self._sequence()]
        while self._next() == "|":
            self.at += 1
            branches.append(self._sequence())
        return self.rng.choice(branches)

    def _next(self) -> str:
        return self.pattern[self.at : self.at + 1]

    def _sequence(self) -> str:
        made = ""
        while self._next() not in ("", "|", ")"):
            start = self.at
            piece = self._atom()
            end = self.at
            least, most = self._repeat()
            after = self.at
            count = min(self.rng.randint(least, most), _MOST_REPEATS)
            made += piece if count else ""
            for _ in range(count - 1):
                # Read again, so that every repetition draws its own characters.
                self.at = start
                made += self._atom()
            self.at = max(after, end)
        return made

    def _atom(self) -> str:
        char = self._next()
        self.at += 1
        if char in "^$":
            return ""
        if char == ".":
            return self.rng.choice(string.ascii_lowercase)
        if char == "\\":
            return self._pick(self._escape())
        if char == "[":
            return self._pick(self._class())
        if char == "(":
            return self._group()
        return char

    def _pick(self, choices: str) -> str:
        return self.rng.choice(choices) if choices else ""

    def _escape(self) -> str:
        char = self._next()
        self.at += 1
        return _ESCAPES.get(char, char)

    def _group(self) -> str:
        if self.pattern.startswith("?:", self.at):
            self.at += 2
        made = self.alternation()
        self.at += 1
        return made

    def _class(self) -> str:
        negated = self._next() == "^"
        self.at += negated
        chosen = ""
        while self._next() not in ("", "]"):
            char = self._next()
            self.at += 1
            if char == "\\":
                chosen += self._escape()
            elif self._next() == "-" and self.pattern[self.at + 1 : self.at + 2] not in ("", "]"):
                last = self.pattern[self.at + 1]
                self.at += 2
                chosen += "".join(map(chr, range(ord(char), min(ord(last), 0x2FF) + 1)))
            else:
                chosen += char
        self.at += 1
        return "".join(sorted(set(_PRINTABLE) - set(chosen))) if negated else chosen

    def _repeat(self) -> tuple[int, int]:
        least, most = 1, 1
        char = self._next()
        if char in ("?", "*", "+"):
            self.at += 1
            least, most = {"?": (0, 1), "*": (0, _MORE), "+": (1, 1 + _MORE)}[char]
        elif char == "{":
            end = self.pattern.find("}", self.at)
            low, comma, high = self.pattern[self.at + 1 : end].partition(",")
            self.at = end + 1
            least = int(low or 0)
            most = int(high) if high else (least + _MORE if comma else least)
        if char and char in "?*+{" and self._next() == "?":
            self.at += 1
        return least, most
