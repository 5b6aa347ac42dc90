"""Stripe's bodies: `a[b][0][c]=1` to dicts and lists, and whether the API knows what they name."""

from __future__ import annotations

import itertools
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any
from urllib.parse import parse_qsl

import typing_extensions
from stripe._request_options import RequestOptions

from tests.stripe_server.errors import unknown_parameter
from tests.stripe_server.package_types import names_of

OPTIONS = frozenset(RequestOptions.__annotations__)
"""Of a call, not of its body; some of the package's types have both."""


def parsed(body: str) -> dict[str, Any]:
    """A form or query as nested dicts and lists; every leaf is text."""
    tree: dict[str, Any] = {}
    for name, value in parse_qsl(body, keep_blank_values=True, strict_parsing=bool(body)):
        head, *rest = name.replace("]", "").split("[")
        keys = [head, *rest]
        place = tree
        for key, following in itertools.pairwise(keys):
            place = place.setdefault(key, {})
            if following == "":
                place[str(len(place))] = value
        if keys[-1] != "":
            place[keys[-1]] = value
    return {key: _listed(value) for key, value in tree.items()}


def _listed(value: Any) -> Any:
    """Dicts whose keys are 0, 1, 2 … are lists."""
    if not isinstance(value, dict):
        return value
    if value and all(key.isdigit() for key in value):
        return [_listed(value[key]) for key in sorted(value, key=int)]
    return {key: _listed(child) for key, child in value.items()}


def checked(params: Mapping[str, Any], kind: Any, at: str = "") -> None:
    """Refuse a parameter that the package's TypedDict `kind` does not have, at any depth."""
    hints = _hints(kind)
    for name, value in params.items():
        path = f"{at}[{name}]" if at else name
        if name not in hints:
            raise unknown_parameter(path)
        _checked_value(value, hints[name], path)


def _checked_value(value: Any, hint: Any, path: str) -> None:
    origin = typing.get_origin(hint)
    if origin is typing_extensions.NotRequired or origin is typing.NotRequired:
        _checked_value(value, typing.get_args(hint)[0], path)
        return
    options = typing.get_args(hint) if origin in {typing.Union, types.UnionType} else (hint,)
    dicts = [option for option in options if typing_extensions.is_typeddict(option)]
    lists = [option for option in options if typing.get_origin(option) is list]
    if isinstance(value, dict) and dicts:
        checked(value, dicts[0], path)
    elif isinstance(value, list) and lists:
        for place, item in enumerate(value):
            _checked_value(item, typing.get_args(lists[0])[0], f"{path}[{place}]")


@cache
def _hints(kind: Any) -> dict[str, Any]:
    names = names_of(kind.__module__) | names_of(RequestOptions.__module__)
    hints = typing.get_type_hints(kind, localns=names, include_extras=True)
    return {name: hint for name, hint in hints.items() if name not in OPTIONS}
