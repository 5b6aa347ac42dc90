"""Signing in as the known clients do, against real processes.

The two readers follow what the programs send and read: kyma-ter's `internal/server/server.go`
and haynoi's `Auth/KymaAuth.swift`.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import aiohttp
import orjson
import pytest
import pytest_asyncio

from kyma.identity import challenge_of
from tests.e2e.stack import Stack, register
from tests.servers import Servers, drop_database, fresh_database, fresh_redis

CLIENTS = {"haynoi": {"name": "Haynoi", "redirect_uris": ["http://127.0.0.1/callback"]}}
YEAR_MS = 365 * 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Two:
    """Two gateways on one database and one Redis, as behind a balancer."""

    first: str
    second: str


@pytest_asyncio.fixture(scope="module")
async def two(servers: Servers) -> AsyncIterator[Two]:
    url = await fresh_database(servers)
    stack = Stack(url, await fresh_redis(servers))
    sandbox = await stack.sandbox()
    clients = orjson.dumps(CLIENTS).decode()
    more = {"sandbox_url": f"{sandbox.url}/v1", "oauth_clients": clients}
    first, second = await asyncio.gather(
        stack.gateway("first", **more), stack.gateway("second", **more)
    )
    yield Two(first.url, second.url)
    stack.close()
    await drop_database(servers, url)


@dataclass
class Person:
    """Somebody at a browser, signed in."""

    session: aiohttp.ClientSession
    email: str

    async def page(self, url: str) -> str:
        async with self.session.get(url) as response:
            assert response.status == 200, await response.text()
            return await response.text()

    async def send(self, url: str, page: str, **told: str) -> aiohttp.ClientResponse:
        """The page's last form, as it was filled in."""
        form = page.rpartition("<form")[2]
        hidden = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', form))
        return await self.session.post(url, data={**hidden, **told}, allow_redirects=False)


@pytest_asyncio.fixture
async def person(two: Two) -> AsyncIterator[Person]:
    account = await register(two.first)
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        found = Person(session, account["email"])
        form = await found.page(f"{two.first}/signin")
        answer = await found.send(
            f"{two.first}/signin", form, email=account["email"], password="secret1"
        )
        assert answer.status == 303
        yield found


async def posted(url: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as response:
        return response.status, await response.json()


async def kyma_ter(base: str, opened: asyncio.Future[str], home: Path) -> None:
    """Waits on `error`, keeps the token as it does on disk."""
    status, code = await posted(f"{base}/v1/auth/device/code", {"client_name": "Kyma Ter"})
    assert status == 200
    opened.set_result(code["verification_url"] + "?code=" + code["user_code"])
    ends = time.monotonic() + code["expires_in"]
    while time.monotonic() < ends:
        await asyncio.sleep(code["interval"])
        status, told = await posted(
            f"{base}/v1/auth/device/token", {"device_code": code["device_code"]}
        )
        if status == 200:
            kept = {
                "type": "oauth", "access": told["access_token"], "email": told["email"],
                "userId": told["user_id"], "expires": int(time.time() * 1000) + YEAR_MS,
            }  # fmt: skip
            folder = home / ".kyma" / "agent"
            folder.mkdir(parents=True)
            (folder / "auth.json").write_bytes(orjson.dumps({"kyma": kept}))
            return
        if told["error"] == "authorization_pending":
            continue
        raise AssertionError(told["error"])
    raise AssertionError("nobody approved")


async def haynoi(base: str, opened: asyncio.Future[str]) -> dict[str, Any]:
    """Waits on the status, reads `api_key`, then the balance with it."""
    status, code = await posted(f"{base}/v1/auth/device/code", {})
    assert status == 200
    opened.set_result(f"{code['verification_url']}?code={code['user_code']}")
    while True:
        await asyncio.sleep(code["interval"])
        status, told = await posted(
            f"{base}/v1/auth/device/token", {"device_code": code["device_code"]}
        )
        if status == 428:
            continue
        assert status == 200, (status, told)
        account = {name: told[name] for name in ("api_key", "user_id", "email")}
        async with (
            aiohttp.ClientSession() as session,
            session.get(
                f"{base}/v1/credits/balance",
                headers={"Authorization": f"Bearer {account['api_key']}"},
            ) as response,
        ):
            assert response.status == 200
            balance = await response.json()
        return {**account, "balance": told.get("balance"), "now": balance["balance"]}


async def approve(person: Person, address: str, name: str) -> None:
    page = await person.page(address)
    assert name in page
    answer = await person.send(address.partition("?")[0], page, answer="approve")
    assert "Device approved" in await answer.text()


async def test_the_two_known_readers_get_their_keys(
    two: Two, person: Person, tmp_path: Path
) -> None:
    """Both wait while nobody has approved; the second asks another process than it began at."""
    loop = asyncio.get_running_loop()
    first, second = loop.create_future(), loop.create_future()
    both = asyncio.gather(kyma_ter(two.first, first, tmp_path), haynoi(two.first, second))
    addresses = [await first, await second]
    assert all(re.search(r"/device\?code=KYMA-[2-9A-HJ-NP-Z]{4}$", one) for one in addresses)
    await asyncio.sleep(5.5)  # each has been told once that nobody has approved
    await approve(person, addresses[0], "Kyma Ter")
    await approve(person, addresses[1], "Unnamed device")
    async with asyncio.timeout(30):
        _, swift = await both
    assert swift["email"] == person.email
    assert swift["balance"] == swift["now"] == 0.5
    kept = orjson.loads((tmp_path / ".kyma" / "agent" / "auth.json").read_bytes())["kyma"]
    assert kept["email"] == person.email
    assert kept["userId"] == swift["user_id"]
    headers = {"Authorization": f"Bearer {kept['access']}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        async with session.get(f"{two.second}/v1/auth/me") as response:
            names = [key["name"] for key in (await response.json())["api_keys"]]
        assert sorted(names) == ["Kyma Ter", "Unnamed device", "default"]
        async with session.post(
            f"{two.second}/v1/chat/completions",
            json={"model": "best", "messages": [{"role": "user", "content": "hi"}]},
        ) as response:
            assert response.status == 200, await response.text()


async def test_of_many_polls_at_two_processes_one_gets_the_key(two: Two, person: Person) -> None:
    _, code = await posted(f"{two.first}/v1/auth/device/code", {"client_name": "Many"})
    await approve(person, f"{code['verification_url']}?code={code['user_code']}", "Many")
    body = {"device_code": code["device_code"]}
    answers = await asyncio.gather(
        *(posted(f"{base}/v1/auth/device/token", body) for base in (two.first, two.second) * 15)
    )
    assert sorted(status for status, _ in answers) == [200] + [400] * 29
    assert {told["error"] for status, told in answers if status == 400} == {"expired_token"}
    (given,) = [told for status, told in answers if status == 200]
    headers = {"Authorization": f"Bearer {given['access_token']}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(f"{two.first}/v1/auth/me") as response,
    ):
        names = [key["name"] for key in (await response.json())["api_keys"]]
    assert names.count("Many") == 1


async def test_a_native_app_gets_a_key_by_its_code_and_loses_it_by_using_it_twice(
    two: Two, person: Person
) -> None:
    verifier, listening = "n" * 43, "http://127.0.0.1:49731/callback"
    asked = {
        "client_id": "haynoi", "redirect_uri": listening, "response_type": "code",
        "code_challenge": challenge_of(verifier), "code_challenge_method": "S256",
        "state": "abc", "scope": "openid email",
    }  # fmt: skip
    page = await person.page(f"{two.first}/v1/auth/authorize?{urlencode(asked)}")
    assert "Let Haynoi in?" in page
    answer = await person.send(f"{two.first}/v1/auth/authorize", page, answer="approve")
    assert answer.status == 303
    back = urlsplit(answer.headers["Location"])
    query = parse_qs(back.query)
    assert (back.netloc, query["state"]) == ("127.0.0.1:49731", ["abc"])
    form = {
        "grant_type": "authorization_code", "code": query["code"][0], "code_verifier": verifier,
        "client_id": "haynoi", "redirect_uri": listening,
    }  # fmt: skip
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{two.second}/v1/auth/token", data=form) as response:
            given = await response.json()
            assert response.status == 200, given
        assert (given["email"], given["balance"]) == (person.email, 0.5)
        headers = {"Authorization": f"Bearer {given['access_token']}"}
        async with session.get(f"{two.first}/v1/credits/balance", headers=headers) as response:
            assert response.status == 200
        async with session.post(f"{two.first}/v1/auth/token", data=form) as response:
            assert (response.status, (await response.json())["error"]) == (400, "invalid_grant")
        async with asyncio.timeout(1):  # everywhere within a second
            while True:
                async with session.get(
                    f"{two.second}/v1/credits/balance", headers=headers
                ) as response:
                    if response.status == 401:
                        break
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("known", [True, False])
async def test_asking_for_a_new_password_tells_nothing(two: Two, known: bool) -> None:
    email = (await register(two.first))["email"] if known else "nobody@example.com"
    status, told = await posted(f"{two.first}/v1/auth/password/forgot", {"email": email})
    assert status == 200
    assert told == {
        "object": "mail",
        "message": "If there is an account with this address, a link to a new password is on its "
        "way to it.",
    }
