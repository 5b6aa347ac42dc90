"""The few words schemas are written with. They add nothing to JSON Schema 2020-12 but brevity."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def text(description: str = "", **more: Any) -> Schema:
    """A string; `enum`, `format`, `pattern`, `examples` and the like come as keywords."""
    return _of("string", description, more)


def integer(description: str = "", **more: Any) -> Schema:
    """A whole number."""
    return _of("integer", description, more)


def number(description: str = "", **more: Any) -> Schema:
    """Any number."""
    return _of("number", description, more)


def boolean(description: str = "", **more: Any) -> Schema:
    """True or false."""
    return _of("boolean", description, more)


def anything(description: str) -> Schema:
    """A value that is not looked at here."""
    return {"description": description}


def array(items: Schema | None = None, description: str = "", **more: Any) -> Schema:
    """A list; without `items`, of objects."""
    return _of("array", description, {"items": items or {"type": "object"}, **more})


def record(
    properties: dict[str, Schema],
    *,
    required: tuple[str, ...] | None = None,
    description: str = "",
    **more: Any,
) -> Schema:
    """An object. All properties are required unless `required` says which; more may come."""
    names = list(properties) if required is None else list(required)
    needed: Schema = {"required": names} if names else {}
    return _of("object", description, {**needed, "properties": properties, **more})


def maybe(schema: Schema) -> Schema:
    """That, or null."""
    if "$ref" in schema:
        return {"oneOf": [schema, {"type": "null"}]}
    nullable = {**schema, "type": [schema["type"], "null"]}
    if "enum" in schema:
        nullable["enum"] = [*schema["enum"], None]
    return nullable


def ref(name: str) -> Schema:
    """A named schema."""
    return {"$ref": f"#/components/schemas/{name}"}


def _of(kind: str, description: str, more: dict[str, Any]) -> Schema:
    said: Schema = {"description": description} if description else {}
    return {"type": kind, **said, **more}


MOMENT: Schema = text(format="date-time")
DOLLARS: Schema = text("Exact US dollars.", pattern=r"^-?[0-9]+(\.[0-9]+)?$", examples=["0.5"])
