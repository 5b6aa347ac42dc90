"""A real browser on the pages: by keyboard alone, without scripts, under their content policy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import aiohttp
import orjson
from playwright.async_api import Page, async_playwright, expect

from adapters.embedded.processes import free_port
from kyma.identity import challenge_of
from tests.e2e.browser import chromium
from tests.e2e.stack import Stack, register

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
]  # fmt: skip
CLIENTS = {"haynoi": {"name": "Haynoi", "redirect_uris": ["http://127.0.0.1/callback"]}}


@asynccontextmanager
async def a_page(said: list[str]) -> AsyncIterator[Page]:
    """A page of a browser in which scripts are off; what its console says is kept."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        context = await browser.new_context(java_script_enabled=False)
        page = await context.new_page()
        page.on("console", lambda message: said.append(message.text))
        yield page
        await browser.close()


@asynccontextmanager
async def a_listener(port: int, asked: list[str]) -> AsyncIterator[None]:
    """A native application that waits for its code."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readline()).decode().split(" ")[1])
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\ndone")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", port)
    try:
        yield
    finally:
        server.close()


async def posted(url: str, **body: Any) -> dict[str, Any]:
    async with aiohttp.ClientSession() as session, session.post(url, **body) as response:
        found: dict[str, Any] = await response.json()
        return found


async def test_a_person_approves_a_device_and_an_application_by_keyboard(stack: Stack) -> None:
    gateway = await stack.gateway(oauth_clients=orjson.dumps(CLIENTS).decode())
    account = await register(gateway.url, "grace@example.com")
    device = await posted(f"{gateway.url}/v1/auth/device/code", json={"client_name": "Laptop"})
    said: list[str] = []
    async with a_page(said) as page:
        await page.goto(f"{device['verification_url']}?code={device['user_code']}")
        await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        await page.keyboard.type("grace@example.com")  # the first field has the focus
        await page.keyboard.press("Tab")
        await page.keyboard.type("secret1")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="Approve “Laptop”?")).to_be_visible()
        await expect(page.get_by_text(device["user_code"])).to_be_visible()
        await page.get_by_role("button", name="Approve").press("Enter")
        await expect(page.get_by_role("heading", name="Device approved")).to_be_visible()
        given = await posted(
            f"{gateway.url}/v1/auth/device/token", json={"device_code": device["device_code"]}
        )
        assert given["user_id"] == account["user_id"]
        await let_in(page, gateway.url)
    assert not [line for line in said if "Content Security Policy" in line]


async def let_in(page: Page, url: str) -> None:
    """The policy of the consent page lets its form's answer go to the application, and no other."""
    verifier, asked = "n" * 43, []
    port = free_port()
    listening = f"http://127.0.0.1:{port}/callback"
    query = {
        "client_id": "haynoi", "redirect_uri": listening, "response_type": "code",
        "code_challenge": challenge_of(verifier), "code_challenge_method": "S256", "state": "abc",
    }  # fmt: skip
    async with a_listener(port, asked):
        await page.goto(f"{url}/v1/auth/authorize?{urlencode(query)}")
        await page.get_by_role("button", name="Allow").press("Enter")
        await page.wait_for_url(f"{listening}**")
    code = parse_qs(urlsplit(asked[0]).query)["code"][0]
    form = {
        "grant_type": "authorization_code", "code": code, "code_verifier": verifier,
        "client_id": "haynoi", "redirect_uri": listening,
    }  # fmt: skip
    given = await posted(f"{url}/v1/auth/token", data=form)
    assert given["email"] == "grace@example.com"
