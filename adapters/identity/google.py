"""Google's word on who somebody is: OpenID Connect, by authlib's rules and joserfc's signatures.

Nothing here is Google's own but the default issuer: any provider with a discovery document does.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import aiohttp
import orjson
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import BadSignatureError, InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry

from kyma.identity import Claims
from kyma.ports.identity import IdentityRefused, IdentityUnavailable

DISCOVERY = "/.well-known/openid-configuration"
ALGORITHMS = ["RS256", "ES256"]
"""Signatures by the provider's private key. Never `none`, never one by a shared secret."""

KEEP_S = 3600
"""How long the discovery document and the keys are remembered."""

LEEWAY_S = 60
TIMEOUT_S = 10.0
MAX_BYTES = 1 << 20


class GoogleIdentity:
    """The `IdentityProvider` port."""

    def __init__(self, issuer: str, client_id: str, client_secret: str) -> None:
        """`issuer` as the provider spells it in its tokens, without a trailing slash."""
        self._issuer = issuer.rstrip("/")
        self._client_id = client_id
        self._client_secret = client_secret
        self._session: aiohttp.ClientSession | None = None
        self._read: dict[str, tuple[float, dict[str, Any]]] = {}

    async def address(self, redirect_uri: str, state: str, nonce: str, verifier: str) -> str:
        """The authorization endpoint with our question."""
        document = await self._discovered()
        asked = prepare_grant_uri(
            document["authorization_endpoint"],
            self._client_id,
            "code",
            redirect_uri,
            "openid email",
            state,
            nonce=nonce,
            code_challenge=create_s256_code_challenge(verifier),
            code_challenge_method="S256",
            prompt="select_account",
        )
        return str(asked)

    async def claims(self, code: str, redirect_uri: str, nonce: str, verifier: str) -> Claims:
        """Fetch the ID token over TLS, and check it all the same."""
        document = await self._discovered()
        token = await self._asked(
            "POST",
            document["token_endpoint"],
            {
                "grant_type": "authorization_code",
                "code": code,
                "redirect_uri": redirect_uri,
                "client_id": self._client_id,
                "client_secret": self._client_secret,
                "code_verifier": verifier,
            },
        )
        said = await self._checked(str(token.get("id_token", "")), nonce, document)
        return Claims(
            said["iss"],
            said["sub"],
            str(said.get("email", "")),
            email_verified=said.get("email_verified") in {True, "true"},
        )

    async def close(self) -> None:
        """Give back connections."""
        if self._session is not None:
            await self._session.close()

    async def _checked(self, raw: str, nonce: str, document: dict[str, Any]) -> dict[str, Any]:
        """Signature, issuer, audience, times, nonce; keys are read anew before one is missed."""
        jwks = document["jwks_uri"]
        try:
            try:
                token = self._verified(raw, await self._kept(jwks))
            except (InvalidKeyIdError, BadSignatureError):
                token = self._verified(raw, await self._kept(jwks, anew=True))
            rules = {
                "iss": {"essential": True, "value": self._issuer},
                "aud": {"essential": True, "value": self._client_id},
                "sub": {"essential": True},
            }
            asked = {"nonce": nonce, "client_id": self._client_id}
            claims = CodeIDToken(token.claims, token.header, rules, asked)
            claims.validate(leeway=LEEWAY_S)
        except (JoseError, ValueError) as error:
            raise IdentityRefused(f"the ID token does not hold: {error}") from error
        if not isinstance(claims["sub"], str) or not claims["sub"]:
            raise IdentityRefused("the ID token names nobody")
        return dict(claims)

    def _verified(self, raw: str, jwks: dict[str, Any]) -> jwt.Token:
        keys = KeySet.import_key_set(cast(Any, jwks))
        registry = JWSRegistry(algorithms=ALGORITHMS, strict_check_header=False)
        return jwt.decode(raw, keys, registry=registry)

    async def _discovered(self) -> dict[str, Any]:
        document = await self._kept(self._issuer + DISCOVERY)
        if document.get("issuer") != self._issuer:
            raise IdentityUnavailable("the discovery document is another issuer's")
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            address = document.get(name)
            if not isinstance(address, str) or not self._is_as_safe(address):
                raise IdentityUnavailable(f"the discovery document has no usable {name}")
        return document

    def _is_as_safe(self, address: str) -> bool:
        """https, unless the issuer itself is a test's on http."""
        return address.startswith(("https://", self._issuer.partition("//")[0] + "//"))

    async def _kept(self, address: str, *, anew: bool = False) -> dict[str, Any]:
        known = self._read.get(address)
        if known is not None and not anew and known[0] > time.monotonic():
            return known[1]
        document = await self._asked("GET", address, None)
        self._read[address] = (time.monotonic() + KEEP_S, document)
        return document

    async def _asked(self, method: str, url: str, form: dict[str, str] | None) -> dict[str, Any]:
        """One bounded request; no redirect is followed."""
        if self._session is None:
            self._session = aiohttp.ClientSession()
        try:
            async with (
                asyncio.timeout(TIMEOUT_S),
                self._session.request(method, url, data=form, allow_redirects=False) as response,
            ):
                raw, status = b"", response.status
                async for chunk in response.content.iter_any():
                    raw += chunk
                    if len(raw) > MAX_BYTES:
                        raise IdentityUnavailable(f"{method} {url}: the answer is too long")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise IdentityUnavailable(f"{method} {url}: {error}") from error
        if status >= 500 or (status != 200 and form is None):
            raise IdentityUnavailable(f"{method} {url}: status {status}")
        if status != 200:
            raise IdentityRefused(f"the code was not taken: status {status}")
        return _object(raw)


def _object(raw: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise IdentityUnavailable("the answer is not JSON") from error
    if not isinstance(document, dict):
        raise IdentityUnavailable("the answer is not an object")
    return document
