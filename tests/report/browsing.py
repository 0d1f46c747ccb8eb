"""Headless Chromium on a page, with everything that a page must not do written down."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
REASON = "Chromium is not installed; on Debian: apt-get install chromium"


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Debian's Chromium: a browser that playwright would download is not needed."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


class Opened:
    """A page in a tab of its own. ``complaints`` are its console messages, errors and requests to a network."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.on("console", lambda message: self.complaints.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("request", lambda request: self._asked(request.url))

    def _asked(self, url: str) -> None:
        if not url.startswith(("file:", "data:", "http://127.0.0.1:")):
            self.complaints.append(f"request: {url}")

    def go(self, address: str | Path, view: str = "overview") -> Page:
        """Show one view of a file or of a server's page."""
        url = address.as_uri() if isinstance(address, Path) else address
        self.page.goto(f"{url}#{view}")
        return self.page

    def prompts(self) -> list[str]:
        """The prompts of the gallery's cards, in order."""
        return self.page.locator("#gallery .open").all_text_contents()
