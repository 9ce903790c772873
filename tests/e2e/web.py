"""The dashboard as a process on loopback, and people's browsers before it: each with a token, a colour scheme and a log of what went wrong in it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from axe_playwright_python.sync_playwright import Axe
from e2e.ground import OUTPUTS
from playwright.sync_api import TimeoutError as PageTimeoutError
from playwright.sync_api import expect, sync_playwright
from ports import free_port
from waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from e2e.ground import Ground
    from playwright.sync_api import Browser, Page

START_SECONDS = 120
PAGE_SECONDS = 120
"""For anything that a page should show soon; generous, because many tests share two cores."""
SCHEMES = ("light", "dark")
DESK = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}


def chromium() -> str:
    """Debian's; the names that others give it as well."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    assert found, "Chromium is not there: `tools/debian chromium:chromium` installs it."
    return found


@contextlib.contextmanager
def served(ground: Ground, folder: Path) -> Iterator[str]:
    """Start the dashboard before the cluster's API server; gives its address."""
    port = free_port()
    environ = {**os.environ, "KUBECONFIG": str(ground.kubeconfig), "TRAININGRUN_DASHBOARD_PORT": str(port)}
    environ.pop("KUBERNETES_SERVICE_HOST", None)
    log = folder / "dashboard.log"
    with log.open("w") as written:
        command = [sys.executable, "-m", "trainingrun_operator", "dashboard"]
        process = subprocess.Popen(command, env=environ, stdout=written, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.poll() is None, f"The dashboard has ended:\n{log.read_text()}"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5):
            return True
        return False

    try:
        eventually(answers, "the dashboard answers", START_SECONDS)
        yield url
    finally:
        process.terminate()
        process.wait(START_SECONDS)
    said = log.read_text()
    assert " ERROR " not in said, said
    assert "Traceback" not in said, said


@dataclass
class Web:
    """The dashboard's address, and a browser."""

    url: str
    browser: Browser
    complaints: list[str] = field(default_factory=list)
    """What any page's console had to complain about: a broken policy, a script that failed."""

    @contextlib.contextmanager
    def page(self, path: str = "", token: str = "", *, size: Any = DESK, scheme: Any = "light") -> Iterator[Page]:
        """Open a page, logged in with a token."""
        context = self.browser.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce", locale="en-GB")
        context.set_default_timeout(PAGE_SECONDS * 1000)
        if token:
            # As the login page sets it; that is another test.
            context.add_cookies([{"name": "trainingrun-token", "value": token, "url": self.url, "httpOnly": True, "sameSite": "Strict"}])  # fmt: skip
        page = context.new_page()
        page.on("pageerror", lambda error: self.complaints.append(f"{page.url}: {error}"))
        page.on(
            "console", lambda said: self.complaints.append(f"{page.url}: {said.text}") if said.type == "error" else None
        )
        if path:
            page.goto(self.url + path)
        yield page
        context.close()

    def picture(self, page: Page, name: str, *, whole: bool = False) -> None:
        """Keep what it looks like, for the README and for who wonders."""
        OUTPUTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=OUTPUTS / f"dashboard-{name}.png", full_page=whole)


def assert_accessible(page: Page) -> None:
    """axe-core finds nothing in it, in light and in dark."""
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type] # a literal of its own
        found = Axe().run(page)
        assert found.violations_count == 0, f"{page.url} in {scheme}:\n{found.generate_report()}"
    page.emulate_media(color_scheme="light")


def assert_fits(page: Page) -> None:
    """Nothing of it is wider than the screen, once the curve is drawn for the screen's size."""
    assert page.viewport_size is not None
    try:
        page.wait_for_function("most => document.documentElement.scrollWidth <= most", arg=page.viewport_size["width"])
    except PageTimeoutError as error:
        width = page.evaluate("document.documentElement.scrollWidth")
        raise AssertionError(f"{page.url} is {width} pixels wide.") from error


@contextlib.contextmanager
def web(ground: Ground, folder: Path) -> Iterator[Web]:
    """Start the dashboard and a browser."""
    expect.set_options(timeout=PAGE_SECONDS * 1000)
    with served(ground, folder) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield Web(url, browser)
        browser.close()
