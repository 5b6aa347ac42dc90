"""The query of `GET /v1/logs`: filters, page size, cursor. Unknown parameters are ignored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from kyma.catalog.model import Catalogue
from kyma.errors import Code, Refusal
from kyma.generations import LogFilter, Place, place_of, request_id_of

DEFAULT_LIMIT = 20
MAX_LIMIT = 100
MAX_WORD = 200
FIRST = datetime(1970, 1, 1, tzinfo=UTC)
LAST = datetime(9000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class LogQuery:
    """A page that is asked for."""

    wanted: LogFilter
    after: Place | None
    limit: int


def from_query(query: Mapping[str, str], catalogue: Catalogue) -> LogQuery:
    """What a query string asks for; an empty value is as good as none, a bad one is refused."""
    given = {name: value for name, value in query.items() if value}
    model = _word(given, "model")
    key_id = given.get("key_id")
    if key_id is not None:
        key_id = request_id_of(key_id)
        if key_id is None:
            raise _refuse("key_id", "the id of a key, as GET /v1/auth/keys lists it")
    wanted = LogFilter(
        model=None if model is None else catalogue.aliases.get(model, model),
        outcome=_word(given, "outcome"),
        endpoint=_endpoint(_word(given, "endpoint")),
        key_id=key_id,
        since=moment(given, "since"),
        until=moment(given, "until"),
    )
    cursor = given.get("cursor")
    return LogQuery(wanted, None if cursor is None else place_of(cursor), limit(given))


def _refuse(name: str, expected: str) -> Refusal:
    return Refusal(Code.INVALID_VALUE, f"`{name}` must be {expected}.", param=name)


def _word(given: Mapping[str, str], name: str) -> str | None:
    value = given.get(name)
    if value is not None and (len(value) > MAX_WORD or not value.isprintable()):
        raise _refuse(name, f"at most {MAX_WORD} printable characters")
    return value


def _endpoint(value: str | None) -> str | None:
    """An endpoint by its name (`chat.completions`) or its path."""
    return None if value is None else value.removeprefix("/v1/").replace("/", ".")


def moment(given: Mapping[str, str], name: str) -> datetime | None:
    """ISO 8601, or Unix seconds; without a zone UTC is meant."""
    value = given.get(name)
    if value is None:
        return None
    wrong = _refuse(name, "a time in ISO 8601 (2026-05-17T12:00:00Z) or in Unix seconds")
    try:
        if value.isascii() and value.isdigit():
            moment = datetime.fromtimestamp(int(value[:16]), UTC)
        else:
            moment = datetime.fromisoformat(value)
            moment = moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        raise wrong from None
    if not FIRST <= moment <= LAST:
        raise wrong
    return moment


def limit(given: Mapping[str, str]) -> int:
    """The size of a page."""
    value = given.get("limit", str(DEFAULT_LIMIT))
    if value.isascii() and value.isdigit() and len(value) <= 4 and 1 <= int(value) <= MAX_LIMIT:
        return int(value)
    raise _refuse("limit", f"between 1 and {MAX_LIMIT}")
