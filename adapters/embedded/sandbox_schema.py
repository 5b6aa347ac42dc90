"""The part of JSON Schema the sandbox understands: validity, local references, merging.

Never reaches outside the schema it was given, and makes no values (that is `sandbox_values`).
"""

import math
import re
from typing import Any
from urllib.parse import unquote

Json = dict[str, Any]


class SchemaError(ValueError):
    """No value was found; the schema contradicts itself, or uses what this module does not know."""


def accepts(schema: Any, value: Any, root: Any = None) -> bool:
    """Whether the value is valid for the schema, as far as this module knows the keywords."""
    root = schema if root is None else root
    if isinstance(schema, bool):
        return schema
    if "$ref" in schema and not accepts(resolve(schema["$ref"], root), value, root):
        return False
    if "const" in schema and not same(value, schema["const"]):
        return False
    if "enum" in schema and not any(same(value, item) for item in schema["enum"]):
        return False
    kinds = types_named(schema)
    if kinds and not any(is_kind(kind, value) for kind in kinds):
        return False
    return _accepts_combined(schema, value, root) and _accepts_shape(schema, value, root)


def _accepts_combined(schema: Json, value: Any, root: Any) -> bool:
    if not all(accepts(part, value, root) for part in schema.get("allOf", ())):
        return False
    if "anyOf" in schema and not any(accepts(part, value, root) for part in schema["anyOf"]):
        return False
    if "oneOf" in schema and sum(accepts(part, value, root) for part in schema["oneOf"]) != 1:
        return False
    if "not" in schema and accepts(schema["not"], value, root):
        return False
    if "if" in schema:
        branch = "then" if accepts(schema["if"], value, root) else "else"
        return accepts(schema.get(branch, True), value, root)
    return True


def _accepts_shape(schema: Json, value: Any, root: Any) -> bool:
    if isinstance(value, str):
        low, high = schema.get("minLength", 0), schema.get("maxLength", math.inf)
        found = "pattern" not in schema or re.search(schema["pattern"], value) is not None
        return low <= len(value) <= high and found
    if is_kind("number", value):
        return accepts_number(schema, value)
    if isinstance(value, list):
        return _accepts_array(schema, value, root)
    if isinstance(value, dict):
        return _accepts_object(schema, value, root)
    return True


def accepts_number(schema: Json, value: float) -> bool:
    """Whether a number lies within the bounds and on the steps of a schema."""
    low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    above = value > schema.get("exclusiveMinimum", -math.inf)
    below = value < schema.get("exclusiveMaximum", math.inf)
    step = schema.get("multipleOf")
    fits = step is None or math.isclose(value / step, round(value / step), abs_tol=1e-9)
    return bool(low <= value <= high and above and below and fits)


def _accepts_array(schema: Json, value: list[Any], root: Any) -> bool:
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", math.inf):
        return False
    if schema.get("uniqueItems") and has_twins(value):
        return False
    if "contains" in schema and not any(accepts(schema["contains"], item, root) for item in value):
        return False
    return all(accepts(item_schema(schema, at), item, root) for at, item in enumerate(value))


def _accepts_object(schema: Json, value: Json, root: Any) -> bool:
    if not set(schema.get("required", ())) <= value.keys():
        return False
    if not schema.get("minProperties", 0) <= len(value) <= schema.get("maxProperties", math.inf):
        return False
    for name, item in value.items():
        if not accepts(schema.get("propertyNames", True), name, root):
            return False
        if not all(accepts(part, item, root) for part in field_schemas(schema, name)):
            return False
    return True


def resolve(reference: str, root: Any) -> Any:
    """The subschema a local reference points at."""
    if not reference.startswith("#"):
        raise SchemaError(f"only local references are known, not {reference!r}")
    found = root
    for token in reference[1:].split("/")[1:]:
        key = unquote(token).replace("~1", "/").replace("~0", "~")
        try:
            found = found[int(key)] if isinstance(found, list) else found[key]
        except (KeyError, IndexError, ValueError, TypeError) as missing:
            raise SchemaError(f"reference {reference!r} points at nothing") from missing
    return found


def merge(first: Json, second: Json) -> Json:
    """One schema that asks for what both ask for."""
    merged = {**first, **second}
    # Sorted, because a set of strings is ordered differently in every process.
    for key in sorted(first.keys() & second.keys()):
        if key in ("anyOf", "oneOf"):
            merged[key] = first[key]
            merged["allOf"] = [*merged.get("allOf", ()), {key: second[key]}]
        elif key == "type":
            merged[key] = _shared_types(types_named(first), types_named(second))
        elif key != "allOf":
            merged[key] = _both(key, first[key], second[key])
    if "allOf" in first and "allOf" in second:
        branches = merged["allOf"][len(second["allOf"]) :]
        merged["allOf"] = [*first["allOf"], *second["allOf"], *branches]
    return merged


_LOWER_BOUNDS = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER_BOUNDS = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")


def _both(key: str, mine: Any, other: Any) -> Any:
    if key in _LOWER_BOUNDS:
        return max(mine, other)
    if key in _UPPER_BOUNDS:
        return min(mine, other)
    both = other
    if key == "properties":
        shared = mine.keys() & other.keys()
        both = {**mine, **other, **{n: {"allOf": [mine[n], other[n]]} for n in shared}}
    elif key == "required":
        both = [*mine, *(name for name in other if name not in mine)]
    elif key == "enum":
        both = [item for item in mine if any(same(item, twin) for twin in other)]
    elif key == "items":
        both = {"allOf": [mine, other]}
    return both


def types_named(schema: Json) -> list[str]:
    """The types a schema names, whether it names one or several."""
    named = schema.get("type", [])
    return [named] if isinstance(named, str) else list(named)


def _shared_types(first: list[str], second: list[str]) -> list[str]:
    shared = [kind for kind in first if kind in second]
    if "integer" in first + second and "number" in first + second and "integer" not in shared:
        shared.append("integer")
    return shared


def is_kind(kind: str, value: Any) -> bool:
    """Whether a value is of a JSON type; a boolean is no number, and 2.0 is an integer."""
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer":
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return isinstance(value, _PYTHON_TYPES.get(kind, ()))


_PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "null": (type(None),),
    "number": (int, float),
    "string": (str,),
    "array": (list,),
    "object": (dict,),
}


def same(first: Any, second: Any) -> bool:
    """Whether two JSON values are equal; true is not 1."""
    return bool(first == second and isinstance(first, bool) == isinstance(second, bool))


def has_twins(items: list[Any]) -> bool:
    """Whether two items are the same JSON value."""
    return any(same(item, later) for at, item in enumerate(items) for later in items[at + 1 :])


def item_schema(schema: Json, at: int) -> Any:
    """The schema of the item at this place of an array."""
    fixed = schema.get("prefixItems", ())
    return fixed[at] if at < len(fixed) else schema.get("items", True)


def field_schemas(schema: Json, name: str) -> list[Any]:
    """Every subschema that speaks about this field of an object."""
    found = [schema["properties"][name]] if name in schema.get("properties", {}) else []
    for pattern, part in schema.get("patternProperties", {}).items():
        if re.search(pattern, name):
            found.append(part)
    return found or [schema.get("additionalProperties", True)]
