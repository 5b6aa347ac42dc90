"""A real browser against the running stack: an override changes the limits at once."""

from __future__ import annotations

from typing import Any

import aiohttp
import asyncpg
from argon2 import PasswordHasher
from playwright.async_api import Page, async_playwright, expect

from tests.e2e.browser import chromium
from tests.e2e.stack import Stack, register

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
]  # fmt: skip
PASSWORD = "correct horse battery"


async def limits(url: str, key: str) -> dict[str, Any]:
    async with (
        aiohttp.ClientSession(headers={"x-api-key": key}) as session,
        session.get(f"{url}/v1/auth/limits") as response,
    ):
        answer: dict[str, Any] = await response.json()
        return answer


async def test_an_override_granted_in_a_browser_changes_the_limits_at_once(stack: Stack) -> None:
    sandbox = await stack.sandbox()
    gateway = await stack.gateway(sandbox_url=f"{sandbox.url}/v1")
    console = await stack.console()
    connection = await asyncpg.connect(stack.database_url)
    await connection.execute(
        "INSERT INTO operators VALUES ('ada', $1)", PasswordHasher().hash(PASSWORD)
    )
    await connection.close()
    customer = await register(gateway.url, "grace@example.com")
    before = await limits(gateway.url, customer["api_key"])
    assert (before["tier"], before["rpm_limit"]) == (0, 30)

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        page = await browser.new_page()
        await page.goto(console.url)
        await sign_in(page)
        await page.get_by_role("link", name="Tier overrides").click()
        await expect(page.get_by_role("heading", name="Tier overrides")).to_be_visible()
        await page.get_by_label("Customer").fill("grace@")
        await page.get_by_label("Customer").press("Enter")
        await expect(page.get_by_text("grace@example.com").first).to_be_visible()
        await grant_tier_4(page)
        await expect(page.get_by_text("Tier 4").first).to_be_visible()
        after = await limits(gateway.url, customer["api_key"])
        assert (after["tier"], after["rpm_limit"]) == (4, 300)
        assert after["why"].startswith("set by this gateway's operator, ")
        assert not any(word in after["why"] for word in ("ada", "partner agreement"))
        await browser.close()


async def sign_in(page: Page) -> None:
    await page.get_by_label("Name").fill("ada")
    await page.get_by_label("Password", exact=True).fill(PASSWORD)
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("heading", name="Usage")).to_be_visible(timeout=15_000)


async def grant_tier_4(page: Page) -> None:
    await page.get_by_role("combobox", name="Tier").click()
    await page.get_by_role("option", name="Tier 4").click()
    await page.get_by_label("Reason").first.fill("partner agreement 17")
    await page.get_by_role("button", name="Grant").click()
    await expect(page.get_by_text("is on Tier 4 from the next request")).to_be_visible()
