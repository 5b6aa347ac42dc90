"""People instead of programs: their cookies, their forms, and the headers of every page.

A form is taken only with a token that was put into it for this very browser and session. No page
runs a script, loads anything of others, is framed, is kept, or tells others where it was.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from jinja2 import StrictUndefined
from quart import Quart, Response, g, render_template, request

from adapters.http.cors import ANSWER as CORS
from adapters.http.errors import headers_of, status_of
from adapters.http.identity import Ways, once_each
from adapters.http.parsing import client
from kyma.errors import Code, Refusal
from kyma.flows.access import SESSION_DAYS
from kyma.identity import FEDERATION_S
from kyma.ports.storage import Principal
from kyma.referrals import code_of

FORM = "application/x-www-form-urlencoded"
MAX_FORM_BYTES = 32 * 1024
MAX_PATH = 4096
LOCAL = re.compile(r"/(?!/)[\x21-\x5b\x5d-\x7e]*", re.ASCII)
"""One slash, then no other, and no backslash, which browsers take for one."""

HOME = "/account"
FIELD = re.compile(r"\A`\w+`:? (?=[A-Z])")
SESSION_PREFIX = "ks-"

HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=()",
}
POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'{targets}; "
    "base-uri 'none'; frame-ancestors 'none'"
)
SIGNED_OUT = {Code.MISSING_KEY, Code.MALFORMED_KEY, Code.INVALID_KEY, Code.EXPIRED_KEY}


@dataclass(frozen=True, slots=True)
class WayOn:
    """Where somebody goes after an error, and the words of the link."""

    path: str
    words: str


HOMEWARD = WayOn(HOME, "To your account")
WAYS_ON = {
    (Code.INVALID_LINK, "/reset"): WayOn("/forgot", "Ask for a new link"),
    (Code.INVALID_LINK, "/signup/finish"): WayOn("/signup", "Ask for a new link"),
    (Code.INVALID_LINK, "/verify"): WayOn(HOME, "Ask for a new link on your account's page"),
    (Code.INVALID_LINK, ""): WayOn("/signin", "Sign in again"),
    (Code.SIGN_IN_FAILED, ""): WayOn("/signin", "Back to signing in"),
    (Code.IDENTITY_UNAVAILABLE, ""): WayOn("/signin", "Back to signing in"),
}
"""By what went wrong, and on which page if that matters; else homeward."""


class Visitor:
    """Whoever sits at the browser."""

    def __init__(self, ways: Ways) -> None:
        self._ways = ways
        prefix = "__Host-" if ways.is_secure else ""
        self._session, self._browser = f"{prefix}kyma_session", f"{prefix}kyma_browser"
        self._federation = f"{prefix}kyma_federation"

    @property
    def token(self) -> str:
        """The session that the browser shows, unchecked; an API key in the cookie is none."""
        token = request.cookies.get(self._session, "")
        return token if token.startswith(SESSION_PREFIX) else ""

    async def person(self) -> Principal | None:
        """Who is signed in here."""
        if not self.token:
            return None
        try:
            return await self._ways.access.identify(self.token, None, client().address)
        except Refusal as refusal:
            if refusal.code in SIGNED_OUT:
                return None
            raise

    async def form(self) -> dict[str, str]:
        """What was sent from a form of ours, by the browser and the session it was made for."""
        raw = await request.get_data(cache=True, as_text=False, parse_form_data=False)
        if request.mimetype != FORM or len(raw) > MAX_FORM_BYTES:
            raise Refusal(Code.INVALID_REQUEST, "This is not a form of ours.")
        try:
            pairs = parse_qsl(raw.decode(), keep_blank_values=True, max_num_fields=40)
        except ValueError:
            raise Refusal(Code.INVALID_REQUEST, "This is not a form of ours.") from None
        found = once_each(pairs)
        nonce, _, proof = found.pop("csrf", "").partition(".")
        wanted = self._proof(nonce)
        if not wanted or not hmac.compare_digest(proof.encode(), wanted.encode()):
            raise Refusal(
                Code.FORBIDDEN,
                "This form is out of date, or did not come from this site. Nothing was done. Go "
                "back, load the page again and send it once more.",
            )
        return found

    async def page(
        self, template: str, status: int = 200, *, goes_to: str = "", **values: Any
    ) -> Response:
        """A page. `goes_to` is where its form's answer may send the browser besides here."""
        if not request.cookies.get(self._browser):
            g.new_browser = self._ways.chance.secret("")
        nonce = self._ways.chance.secret("")[:24]
        html = await render_template(
            template, csrf=f"{nonce}.{self._proof(nonce)}", has_google=self._has_google, **values
        )
        response = Response(html, status, content_type="text/html; charset=utf-8")
        self._mark(response, goes_to)
        if "new_browser" in g:
            self._set(response, self._browser, g.new_browser)
        return response

    async def refused(self, refusal: Refusal) -> Response:
        """The page that says what went wrong."""
        way = WAYS_ON.get((refusal.code, request.path)) or WAYS_ON.get((refusal.code, ""), HOMEWARD)
        told = {"message": spoken(refusal), "way": way, "request_id": g.request_id}
        response = await self.page("error.html", status_of(refusal), **told)
        response.headers.extend(headers_of(refusal))
        return response

    async def sent(self, email: str, again: str, told: Mapping[str, str]) -> Response:
        """The page that a letter may be on its way; `told` at `again` asks for it once more."""
        return await self.page("sent.html", email=email, again=again, told=told)

    def to(self, address: str) -> Response:
        """Send the browser on, to be asked for with GET."""
        response = Response(b"", 303, headers={"Location": address})
        self._mark(response, "")
        return response

    def signed_in(self, token: str, path: str) -> Response:
        """Remember who it is, and go on within this site."""
        response = self.remembered(self.to(local_path(path)), token)
        if self._federation in request.cookies:
            response.delete_cookie(self._federation, **self._attributes)
        return response

    def remembered(self, response: Response, token: str) -> Response:
        """Remember who it is with this answer."""
        self._set(response, self._session, token, SESSION_DAYS * 86_400)
        return response

    def signed_out(self, path: str) -> Response:
        """Forget who it was."""
        response = self.to(local_path(path))
        response.delete_cookie(self._session, **self._attributes)
        return response

    def leaving(self, address: str, seed: str, ref: str, path: str) -> Response:
        """Off to a provider of identities; `seed`, `ref` and `path` are for the way back."""
        response = self.to(address)
        self._set(response, self._federation, f"{seed}|{ref}|{local_path(path)}", FEDERATION_S)
        return response

    def back(self) -> tuple[str, str, str]:
        """The seed, the referral code and the path that the browser left with."""
        seed, _, rest = request.cookies.get(self._federation, "").partition("|")
        ref, _, path = rest.partition("|")
        return seed, code_of(ref) or "", local_path(path)

    @property
    def _has_google(self) -> bool:
        return self._ways.federation is not None

    @property
    def _attributes(self) -> dict[str, Any]:
        return {
            "path": "/",
            "httponly": True,
            "samesite": "Lax",
            "secure": self._ways.is_secure,
        }

    def _set(self, response: Response, name: str, value: str, age_s: int | None = None) -> None:
        response.set_cookie(name, value, max_age=age_s, **self._attributes)

    def _mark(self, response: Response, goes_to: str) -> None:
        g.is_page = True
        response.headers.update(HEADERS)
        targets = f" {goes_to}" if goes_to else ""
        response.headers["Content-Security-Policy"] = POLICY.format(targets=targets)

    def _proof(self, nonce: str) -> str:
        """Bound to the browser and to whoever is signed in; another for every page."""
        browser = g.get("new_browser") or request.cookies.get(self._browser, "")
        session = request.cookies.get(self._session, "")
        if not nonce or not browser:
            return ""
        return self._ways.digests.digest(f"csrf:{nonce}:{browser}:{session}").hex()


def install(app: Quart) -> None:
    """Pages are for people: scripts of other sites may not read them."""
    app.jinja_env.undefined = StrictUndefined

    @app.after_request
    async def keep_private(response: Response) -> Response:
        if g.get("is_page"):
            for name in CORS:
                response.headers.pop(name, None)
        return response


def spoken(refusal: Refusal) -> str:
    """A refusal for a person: fields have labels on a page, not the names that programs use."""
    if refusal.code is Code.MISSING_FIELD:
        return "Fill in every field."
    said = FIELD.sub("", refusal.message).replace("`", "")
    return said[:1].upper() + said[1:]


def local_path(path: str) -> str:
    """A path of this site, or home: nobody is sent elsewhere by what a link says."""
    return path if len(path) <= MAX_PATH and LOCAL.fullmatch(path) else HOME


def referral(told: Mapping[str, str]) -> str:
    """The code of whoever sent this person; empty if there is none, or what came cannot be one."""
    return code_of(told.get("ref", "")) or ""


def asked() -> Mapping[str, str]:
    """The query, each name once."""
    return once_each([*request.args.items(multi=True)])
