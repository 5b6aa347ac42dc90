"""AES-256-GCM under keys derived by HKDF-SHA256: the `Vault` port.

The secret is 192 random bits of which the database holds only an HMAC, so what was sealed
cannot be read from the database, with or without the server's own secrets.
"""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

SALT = b"kyma/vault/1"
"""The form of what is sealed: another form gets another salt, and nothing old opens by it."""

NONCE_BYTES = 12


class AesVault:
    """The `Vault` port."""

    def key(self, secret: str, purpose: str) -> bytes:
        """HKDF over the secret, with the purpose as its context."""
        material = secret.encode("utf-8", "surrogatepass")
        return HKDF(SHA256(), 32, SALT, purpose.encode("utf-8", "surrogatepass")).derive(material)

    def seal(self, key: bytes, plain: bytes, bound_to: bytes) -> bytes:
        """A random nonce, then ciphertext and tag."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + AESGCM(key).encrypt(nonce, plain, bound_to)

    def open(self, key: bytes, sealed: bytes, bound_to: bytes) -> bytes | None:
        """The plain bytes if nothing was changed."""
        nonce, text = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
        if len(nonce) < NONCE_BYTES:
            return None
        try:
            return AESGCM(key).decrypt(nonce, text, bound_to)
        except InvalidTag:
            return None
