"""The `Vault` port without a cipher: what is sealed can be seen, and only the right key opens it.

Never for real answers.
"""

from __future__ import annotations

import hashlib


class MemoryVault:
    """Puts key and binding in front of the plain bytes."""

    def key(self, secret: str, purpose: str) -> bytes:
        """A digest of both."""
        return hashlib.sha256(f"{secret}\n{purpose}".encode()).digest()

    def seal(self, key: bytes, plain: bytes, bound_to: bytes) -> bytes:
        """A mark that tells whether the right key is used, and the bytes as they are."""
        return hashlib.sha256(key + bound_to + plain).digest() + plain

    def open(self, key: bytes, sealed: bytes, bound_to: bytes) -> bytes | None:
        """The bytes if the mark is right."""
        plain = sealed[32:]
        return plain if hashlib.sha256(key + bound_to + plain).digest() == sealed[:32] else None
