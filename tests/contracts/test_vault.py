"""The contract of the vault: only the same secret, purpose and binding open what was sealed."""

from __future__ import annotations

import pytest

from adapters.memory.vault import MemoryVault
from adapters.vault import AesVault
from kyma.ports.runtime import Vault

PLAIN = b"\x00an answer\xff" * 100
SECRET = "ky-" + "0123456789abcdef" * 3


@pytest.fixture(params=[MemoryVault, AesVault], ids=["memory", "aes"])
def vault(request: pytest.FixtureRequest) -> Vault:
    made: Vault = request.param()
    return made


def test_what_was_sealed_is_opened_by_the_same_secret_and_purpose(vault: Vault) -> None:
    sealed = vault.seal(vault.key(SECRET, "order-17"), PLAIN, b"account/request")
    again = type(vault)()
    assert again.open(again.key(SECRET, "order-17"), sealed, b"account/request") == PLAIN


@pytest.mark.parametrize(
    ("secret", "purpose", "bound_to"),
    [
        (SECRET[:-1] + "0", "order-17", b"account/request"),
        (SECRET, "order-18", b"account/request"),
        (SECRET, "order-17", b"account/another"),
        ("", "order-17", b"account/request"),
    ],
    ids=["another secret", "another purpose", "another binding", "no secret"],
)
def test_nothing_else_opens_it(vault: Vault, secret: str, purpose: str, bound_to: bytes) -> None:
    sealed = vault.seal(vault.key(SECRET, "order-17"), PLAIN, b"account/request")
    assert vault.open(vault.key(secret, purpose), sealed, bound_to) is None


@pytest.mark.parametrize("place", [0, 11, 12, 40, -1])
def test_a_changed_byte_is_noticed(vault: Vault, place: int) -> None:
    key = vault.key(SECRET, "order-17")
    sealed = bytearray(vault.seal(key, PLAIN, b""))
    sealed[place] ^= 1
    assert vault.open(key, bytes(sealed), b"") is None


@pytest.mark.parametrize("length", [0, 1, 11, 12, 27, 31])
def test_what_is_too_short_to_be_sealed_is_not_opened(vault: Vault, length: int) -> None:
    assert vault.open(vault.key(SECRET, "x"), b"\x00" * length, b"") is None


def test_nothing_is_something_too(vault: Vault) -> None:
    key = vault.key(SECRET, "x")
    assert vault.open(key, vault.seal(key, b"", b""), b"") == b""


def test_a_key_has_32_bytes_and_takes_any_secret(vault: Vault) -> None:
    assert len(vault.key("é" * 400, "")) == 32


def test_the_cipher_hides_what_it_seals_and_never_seals_twice_alike() -> None:
    vault = AesVault()
    key = vault.key(SECRET, "order-17")
    first, second = vault.seal(key, PLAIN, b""), vault.seal(key, PLAIN, b"")
    assert first != second
    assert b"an answer" not in first
    assert len(first) == len(PLAIN) + 12 + 16
