"""What the `stripe` package's typed classes say of an object, as a check on plain JSON."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import types
import typing
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import stripe
from stripe._object_classes import OBJECT_CLASSES


def faults(value: Any) -> list[str]:
    """Where an object of the API is not what its class says; empty if all is well."""
    module, name = OBJECT_CLASSES[value["object"]]
    return [*_object(value, getattr(importlib.import_module(module), name), (), value["object"])]


def _faults(value: Any, hint: Any, at: str) -> Iterator[str]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, typing.TypeVar):
        return
    if origin in {typing.Union, types.UnionType}:
        yield from _union(value, arguments, at)
    elif origin is typing.Literal:
        if value not in arguments:
            yield f"{at}: {value!r} is not one of {arguments}"
    elif origin is list:
        if not isinstance(value, list):
            yield f"{at}: {value!r} is no list"
            return
        for place, item in enumerate(value):
            yield from _faults(item, arguments[0], f"{at}[{place}]")
    elif issubclass(origin or hint, stripe.StripeObject):
        yield from _object(value, origin or hint, arguments, at)
    elif type(value) is not (str if hint is Decimal else hint):
        yield f"{at}: {value!r} is no {hint}"


def _union(value: Any, options: tuple[Any, ...], at: str) -> Iterator[str]:
    # `Union[Literal["a"], str]` leaves room for the future; what we send must be known today.
    if any(typing.get_origin(option) is typing.Literal for option in options):
        options = tuple(option for option in options if option is not str)
    tried = [[*_faults(value, option, at)] for option in options]
    if all(tried):
        yield from max(tried, key=len)


def _object(value: Any, kind: Any, arguments: tuple[Any, ...], at: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{at}: {value!r} is no {kind.__name__}"
        return
    if kind.__name__ == "UntypedStripeObject":
        return
    hints = _hints(kind)
    for name, hint in hints.items():
        wanted = list[arguments[0]] if kind is stripe.ListObject and name == "data" else hint
        if name in value:
            yield from _faults(value[name], wanted, f"{at}.{name}")
        elif type(None) not in typing.get_args(hint):
            yield f"{at}.{name} is missing"
    unknown = set(value) - set(hints) - {"object"}
    if unknown:
        yield f"{at} has what {kind.__name__} has not: {sorted(unknown)}"


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    """Annotations of a class; names that only type checkers see are imported for it."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if not issubclass(base, stripe.StripeObject) or base is stripe.StripeObject:
            continue
        scope = names_of(base.__module__)
        for name, hint in vars(base).get("__annotations__", {}).items():
            holder = type("Holder", (), {"__annotations__": {"it": hint}})
            resolved = typing.get_type_hints(holder, scope, dict(vars(base)))["it"]
            if name[0] != "_" and typing.get_origin(resolved) is not typing.ClassVar:
                found[name] = resolved
    return found


@functools.cache
def names_of(module_name: str) -> dict[str, Any]:
    """A module's names and those that it imports for type checkers only."""
    module = importlib.import_module(module_name)
    scope = dict(vars(module))
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.ImportFrom) and node.module and ".params" not in node.module:
            source = importlib.import_module(node.module)
            for alias in node.names:
                scope[alias.asname or alias.name] = getattr(source, alias.name)
    return scope
