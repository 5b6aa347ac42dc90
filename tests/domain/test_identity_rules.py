"""Codes, names and addresses of the ways in: what they look like, and what is refused."""

from __future__ import annotations

import pytest

from kyma.identity import (
    ALPHABET,
    LINK_S,
    UNNAMED_DEVICE,
    LinkKind,
    challenge_of,
    check_redirect_uri,
    client_name_from,
    is_registered,
    origin_of,
    user_code_from,
    user_code_of,
    with_query,
)


def test_a_short_code_is_four_letters_that_cannot_be_mistaken() -> None:
    codes = {user_code_of(f"secret-{number}") for number in range(5000)}
    assert len(codes) > 4950
    assert all(code.startswith("KYMA-") and len(code) == 9 for code in codes)
    assert {letter for code in codes for letter in code[5:]} == set(ALPHABET)
    assert not set("IO01") & set(ALPHABET)


@pytest.mark.parametrize("typed", ["KYMA-7XQ2", "kyma-7xq2", " 7xq2 ", "KYMA7XQ2", "kyma 7x-q2"])
def test_a_short_code_is_known_however_it_was_typed(typed: str) -> None:
    assert user_code_from(typed) == "KYMA-7XQ2"


@pytest.mark.parametrize(
    "typed", ["", "KYMA-X", "7XQ", "7XQ20", "7XQ1", "7XQO", "KYMA-7XQ2\x00", "é"]
)
def test_what_cannot_be_a_short_code_is_none(typed: str) -> None:
    assert user_code_from(typed) is None


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("kyma-ter", "kyma-ter"),
        ("  My\n laptop\t", "My laptop"),
        ("a\u202eb\x00c", "a b c"),
        ("", UNNAMED_DEVICE),
        ("\u200b", UNNAMED_DEVICE),
        ("x" * 100, "x" * 64),
    ],
)
def test_a_clients_name_is_one_line_that_can_be_shown(told: str, shown: str) -> None:
    assert client_name_from(told) == shown


def test_the_challenge_is_that_of_rfc_7636() -> None:
    verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    assert challenge_of(verifier) == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"


REGISTERED = ("https://app.example/cb", "http://127.0.0.1/cb", "http://[::1]:1/", "com.app:/cb")


@pytest.mark.parametrize(
    "uri",
    [
        *REGISTERED,
        "http://127.0.0.1:51234/cb",
        "http://[::1]:51234/",
        "http://[::1]/",
    ],
)
def test_a_registered_address_is_taken_and_on_loopback_any_port(uri: str) -> None:
    assert is_registered(uri, REGISTERED)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "https://app.example/cb/",
        "https://app.example/cb?x=1",
        "https://app.example:444/cb",
        "http://app.example/cb",
        "https://app.example.evil.example/cb",
        "http://127.0.0.1:51234/other",
        "http://127.0.0.1:51234@evil.example/cb",
        "http://127.0.0.1:51234/cb#x",
        "http://127.0.0.1:/cb",
        "http://127.0.0.1.evil.example/cb",
        "http://localhost/cb",
        "http://127.0.0.1:51234/cb\n",
        "com.app:/cb?x",
        "javascript:alert(1)",
    ],
)
def test_any_other_address_is_refused(uri: str) -> None:
    assert not is_registered(uri, REGISTERED)


@pytest.mark.parametrize(
    "uri", [*REGISTERED, "http://localhost:3000/x", "https://a.example:8443/b?c=d", "haynoi://cb"]
)
def test_an_application_may_be_registered_with_https_loopback_or_its_own_scheme(uri: str) -> None:
    check_redirect_uri(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "/cb",
        "app.example/cb",
        "http://app.example/cb",
        "http://127.0.0.1@evil.example/cb",
        "https://user:word@app.example/cb",
        "https://app.example;evil/cb",
        "https:///cb",
        "https://app.example/cb#part",
        "https://app.example/\\evil",
        "https://app.example/ö",
        "https://app.example/a b",
        "javascript:alert(1)",
        "data:text/html,x",
        "file:///etc/passwd",
    ],
)
def test_an_application_may_not_be_registered_with_anything_else(uri: str) -> None:
    with pytest.raises(ValueError):
        check_redirect_uri(uri)


@pytest.mark.parametrize(
    ("uri", "origin"),
    [
        ("https://app.example/cb?x=1", "https://app.example"),
        ("http://127.0.0.1:51234/cb", "http://127.0.0.1:51234"),
        ("http://[::1]:51234/cb", "http:"),
        ("com.app:/cb", "com.app:"),
    ],
)
def test_where_a_redirect_goes_can_be_written_in_a_policy(uri: str, origin: str) -> None:
    assert origin_of(uri) == origin


def test_parameters_are_added_behind_those_that_are_there() -> None:
    assert with_query("https://a.example/cb", code="1&2", state="é") == (
        "https://a.example/cb?code=1%262&state=%C3%A9"
    )
    assert with_query("https://a.example/cb?x=1", code="2") == "https://a.example/cb?x=1&code=2"


def test_every_link_ends_and_the_dangerous_ones_soon() -> None:
    assert set(LINK_S) == set(LinkKind)
    assert max(seconds for kind, seconds in LINK_S.items() if kind is not LinkKind.VERIFY) <= 3600
