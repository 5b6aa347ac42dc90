"""Values that are valid for a JSON schema: tool arguments and structured answers of the sandbox.

Tries, checks with `sandbox_schema`, tries again; it never hands out a value that fails the check.
"""

import math
import random
import re
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from adapters.embedded.sandbox_pattern import text_matching
from adapters.embedded.sandbox_schema import (
    Json,
    SchemaError,
    accepts,
    accepts_number,
    field_schemas,
    has_twins,
    item_schema,
    merge,
    resolve,
    types_named,
)

_ATTEMPTS = 24
_STEPS = 4_000  # values made in one attempt; a schema that branches without end stops here
_SHALLOW = 4  # below this depth optional fields are left out and the simplest branch is taken
_DEEPEST = 40
_LONGEST_TEXT = 100_000

_FORMATS = {
    "date-time": "2026-01-15T09:30:00Z",
    "date": "2026-01-15",
    "time": "09:30:00Z",
    "duration": "PT15M",
    "email": "sandbox@example.com",
    "idn-email": "sandbox@example.com",
    "hostname": "sandbox.example.com",
    "ipv4": "192.0.2.10",
    "ipv6": "2001:db8::10",
    "uri": "https://example.com/sandbox",
    "url": "https://example.com/sandbox",
    "uri-reference": "/sandbox",
    "uuid": "3f2b8c1e-5d4a-4b6f-9e7d-1a2b3c4d5e6f",
    "json-pointer": "/sandbox",
    "regex": "^sandbox$",
}
_WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "harbour")


def value_for(schema: Json, rng: random.Random) -> Any:
    """A value valid for the schema; the same seed gives the same value."""
    reason = SchemaError("no value satisfies the schema")
    for _ in range(_ATTEMPTS):
        try:
            value = _Maker(schema, rng).make(schema, 0)
            if accepts(schema, value):
                return value
        except SchemaError as failed:
            reason = failed
        except (TypeError, ValueError, AttributeError, RecursionError, re.error) as broken:
            raise SchemaError("this is not a JSON schema") from broken
    raise reason


@dataclass(slots=True)
class _Maker:
    root: Any
    rng: random.Random
    steps: int = field(default=0)

    def make(self, schema: Any, depth: int) -> Any:
        self.steps += 1
        if self.steps > _STEPS or depth > _DEEPEST:
            raise SchemaError("the schema nests without an end")
        if schema is False:
            raise SchemaError("the schema allows no value")
        if schema is True:
            return self.rng.choice(_WORDS)
        if "$ref" in schema:
            return self.make(self._dereferenced(schema), depth + 1)
        if "allOf" in schema:
            return self.make(self._flat(schema), depth + 1)
        for key in ("anyOf", "oneOf"):
            if key in schema:
                return self._alternative(schema, key, depth)
        return self._plain(schema, depth)

    def _flat(self, schema: Json) -> Json:
        """The schema with its `allOf` folded in."""
        flat = {key: item for key, item in schema.items() if key != "allOf"}
        for part in schema["allOf"]:
            resolved = self._dereferenced(part)
            if resolved is False:
                raise SchemaError("the schema allows no value")
            flat = merge(flat, resolved) if isinstance(resolved, dict) else flat
        return flat

    def _dereferenced(self, part: Any) -> Any:
        found = part
        while isinstance(found, dict) and "$ref" in found:
            self.steps += 1
            if self.steps > _STEPS:
                raise SchemaError("a reference leads back to itself")
            rest = {key: item for key, item in found.items() if key != "$ref"}
            target = resolve(found["$ref"], self.root)
            found = merge(target, rest) if isinstance(target, dict) else target
        return found

    def _alternative(self, schema: Json, key: str, depth: int) -> Any:
        base = {name: item for name, item in schema.items() if name != key}
        options = list(schema[key])
        self.rng.shuffle(options)
        if depth >= _SHALLOW:
            options.sort(key=self._weight)
        for option in options:
            if option is False:
                continue
            try:
                value = self.make({"allOf": [base, option]}, depth + 1)
            except SchemaError:
                continue
            # Only `oneOf` can refuse a value made for one of its own branches.
            if accepts({**base, key: schema[key]}, value, self.root):
                return value
        raise SchemaError(f"no branch of {key} can be satisfied")

    def _weight(self, option: Any) -> int:
        """How far a branch still reaches: references in it, counted one level down."""
        if isinstance(option, dict) and "$ref" in option:
            return 1 + str(resolve(option["$ref"], self.root)).count("'$ref'")
        return str(option).count("'$ref'") * 2 + ("object" in _types_of(option))

    def _plain(self, schema: Json, depth: int) -> Any:
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            fitting = [item for item in schema["enum"] if accepts(schema, item, self.root)]
            if not fitting:
                raise SchemaError("no value of the enum satisfies the rest of the schema")
            return self.rng.choice(fitting)
        match self._kind(schema, depth):
            case "object":
                value: Any = self._object(schema, depth)
            case "array":
                value = self._array(schema, depth)
            case "integer" | "number" as kind:
                value = self._number(schema, whole=kind == "integer")
            case "boolean":
                value = self.rng.random() < 0.5
            case "null":
                value = None
            case _:
                value = self._string(schema)
        return value

    def _kind(self, schema: Json, depth: int) -> str:
        kinds = types_named(schema)
        if "type" in schema and not kinds:
            raise SchemaError("two parts of the schema ask for different types")
        if "null" in kinds and depth >= _SHALLOW:
            return "null"
        named = [kind for kind in kinds if kind != "null"] or kinds
        return self.rng.choice(named) if named else _implied_type(schema)

    def _object(self, schema: Json, depth: int) -> Json:
        required = list(schema.get("required", ()))
        known = schema.get("properties", {})
        optional = [name for name in known if name not in required] if depth < _SHALLOW else []
        limit = schema.get("maxProperties", math.inf)
        made: Json = {}
        for name in [name for name in known if name in required] + required:
            if name not in made:
                made[name] = self._field(schema, name, depth)
        for name in optional:
            if len(made) < limit and known[name] is not False:
                made[name] = self._field(schema, name, depth)
        least = schema.get("minProperties", 0)
        for name in chain(known, (f"field_{at}" for at in range(least))):
            if len(made) < least and name not in made:
                made[name] = self._field(schema, name, depth)
        return made

    def _field(self, schema: Json, name: str, depth: int) -> Any:
        parts = field_schemas(schema, name)
        return self.make(parts[0] if len(parts) == 1 else {"allOf": parts}, depth + 1)

    def _array(self, schema: Json, depth: int) -> list[Any]:
        least, most = schema.get("minItems", 0), schema.get("maxItems", math.inf)
        fixed = len(schema.get("prefixItems", ()))
        wanted = least if depth >= _SHALLOW else max(least, min(most, max(fixed, 2)))
        made: list[Any] = []
        if "contains" in schema and fixed == 0:
            made.append(self.make({"allOf": [schema["contains"], item_schema(schema, 0)]}, depth))
        tries = 0
        while len(made) < wanted and tries < 20 * wanted + 20:
            tries += 1
            wanted_item = item_schema(schema, len(made))
            if wanted_item is False:
                break
            made.append(self.make(wanted_item, depth + 1))
            if schema.get("uniqueItems") and has_twins(made):
                made.pop()
        return made

    def _number(self, schema: Json, *, whole: bool) -> float:
        low, high = _bounds(schema)
        step = schema.get("multipleOf") or (1 if whole else None)
        if step is None:
            value = low + (high - low) * self.rng.uniform(0.05, 0.95)
            rounded = round(value, 2)
            return rounded if accepts_number(schema, rounded) else value
        if whole and step != int(step):
            step = 1
        first, last = math.ceil(low / step), math.floor(high / step)
        first += not accepts_number({**schema, "multipleOf": None}, first * step)
        last -= not accepts_number({**schema, "multipleOf": None}, last * step)
        if first > last:
            raise SchemaError("no number lies within the bounds")
        chosen = self.rng.randint(first, last) * step
        return int(chosen) if whole else chosen

    def _string(self, schema: Json) -> str:
        least, most = schema.get("minLength", 0), schema.get("maxLength", math.inf)
        if least > most:
            raise SchemaError("minLength is above maxLength")
        if least > _LONGEST_TEXT:
            raise SchemaError(f"minLength is above {_LONGEST_TEXT}")
        known = _FORMATS.get(schema.get("format", ""))
        if known is not None and least <= len(known) <= most:
            return known
        if "pattern" in schema:
            return self._patterned(schema)
        text = self.rng.choice(_WORDS)
        while len(text) < least:
            text += " " + self.rng.choice(_WORDS)
        text = text if len(text) <= most else text[: int(max(least, most))]
        return text if text == text.strip() else text.strip().ljust(len(text), "a")

    def _patterned(self, schema: Json) -> str:
        return text_matching(schema["pattern"], self.rng)


def _types_of(option: Any) -> list[str]:
    return types_named(option) if isinstance(option, dict) else []


def _implied_type(schema: Json) -> str:
    for keys, kind in (
        (("properties", "required", "additionalProperties", "minProperties"), "object"),
        (("items", "prefixItems", "minItems", "contains"), "array"),
        (("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"), "number"),
    ):
        if any(key in schema for key in keys):
            return kind
    return "string"


def _bounds(schema: Json) -> tuple[float, float]:
    lows = [schema[key] for key in ("minimum", "exclusiveMinimum") if key in schema]
    highs = [schema[key] for key in ("maximum", "exclusiveMaximum") if key in schema]
    low: float = max(lows) if lows else (min(highs) - 100 if highs else 1)
    high: float = min(highs) if highs else max(low, 0) + 100
    return low, high
