"""A browser without scripts: keeps cookies, reads forms, and follows what it is told to."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import urlencode, urlsplit

from tests.http.wired import Answer

FORM = "application/x-www-form-urlencoded"


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[tuple[str, str, dict[str, str]]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))
        if tag == "form":
            self.forms.append((given.get("method") or "get", given.get("action") or "", {}))
        elif tag == "input" and given.get("name") and self.forms:
            is_sent = given.get("type") != "checkbox" or "checked" in given
            self.forms[-1][2].update(
                {str(given["name"]): given.get("value") or ""} if is_sent else {}
            )

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@dataclass(frozen=True, slots=True)
class Page:
    """What a browser has got."""

    answer: Answer
    cookies: tuple[str, ...]
    """As they were set, attributes included."""

    @property
    def status(self) -> int:
        return self.answer.status

    @property
    def location(self) -> str:
        return self.answer.headers.get("location", "")

    @property
    def read(self) -> _Reader:
        reader = _Reader()
        reader.feed(self.answer.body.decode())
        return reader

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.read.words).split())


@dataclass
class Browser:
    """One browser of one person."""

    app: Any
    jar: dict[str, str] = field(default_factory=dict)
    address: str = "203.0.113.7"

    async def get(self, path: str, **headers: str) -> Page:
        """Open an address."""
        return await self._ask("GET", path, b"", headers)

    async def post(self, path: str, told: dict[str, str], **headers: str) -> Page:
        """Send what may be no form of theirs."""
        return await self._ask(
            "POST", path, urlencode(told).encode(), {"content-type": FORM, **headers}
        )

    async def send(self, page: Page, form: int = 0, **told: str) -> Page:
        """Fill in a form of a page, and send it."""
        method, action, fields = page.read.forms[form]
        if method == "get":
            return await self.get(f"{action}?{urlencode({**fields, **told})}")
        return await self.post(action, {**fields, **told})

    async def follow(self, page: Page) -> Page:
        """Go where one is sent, as long as it is this site."""
        while page.status == 303 and page.location.startswith("/"):
            page = await self.get(page.location)
        return page

    async def sign_in(self, email: str, password: str, path: str = "/account") -> Page:
        """From the form to where it leads."""
        form = await self.get("/signin?" + urlencode({"next": path}))
        return await self.follow(await self.send(form, email=email, password=password))

    async def _ask(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Page:
        sent: list[dict[str, Any]] = []
        parts = [{"type": "http.request", "body": body}]

        async def receive() -> dict[str, Any]:
            if parts:
                return parts.pop()
            await asyncio.Event().wait()
            raise AssertionError("nobody ends this")

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        given = {"host": "kyma.example", "content-length": str(len(body)), **headers}
        if self.jar:
            given["cookie"] = "; ".join(f"{name}={value}" for name, value in self.jar.items())
        split = urlsplit(path)
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": split.path,
            "raw_path": split.path.encode(),
            "query_string": split.query.encode(),
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode()) for name, value in given.items()],
            "client": (self.address, 1),
            "server": ("127.0.0.1", 2),
        }
        async with asyncio.timeout(10):
            await self.app(scope, receive, send)
        return self._kept(sent)

    def _kept(self, sent: list[dict[str, Any]]) -> Page:
        head, *rest = sent
        pairs = [(name.decode().lower(), value.decode()) for name, value in head["headers"]]
        cookies = tuple(value for name, value in pairs if name == "set-cookie")
        for cookie in cookies:
            for name, morsel in SimpleCookie(cookie).items():
                if morsel["max-age"] == "0" or not morsel.value:
                    self.jar.pop(name, None)
                else:
                    self.jar[name] = morsel.value
        body = b"".join(part.get("body", b"") for part in rest)
        return Page(Answer(head["status"], dict(pairs), body), cookies)
