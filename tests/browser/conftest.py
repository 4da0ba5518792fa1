"""Reports opened in Debian's Chromium, without a display and without a network."""

from __future__ import annotations

from pathlib import Path

import pytest

CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="session")
def chromium():
    """A running browser; the test is skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra 'browser'")
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}; on Debian: apt install chromium")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium):
    """Open a file; return the page, with the messages of its console and its requests to other places.

    Its ``busy_s()`` is the CPU time of its main thread, which does not depend on what else runs on the machine.
    """
    contexts = []

    def opened(path, *, width=1600, scheme="light", init=""):
        context = chromium.new_context(viewport={"width": width, "height": 1000}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.messages, page.requests = [], []
        devtools = context.new_cdp_session(page)
        devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
        page.busy_s = lambda: _metrics(devtools)["TaskDuration"]
        page.on("console", lambda message: page.messages.append(message.text))
        page.on("pageerror", lambda error: page.messages.append(str(error)))
        page.on("dialog", lambda dialog: (page.messages.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: page.requests.append(request.url))
        if init:
            page.add_init_script(init)
        page.goto(path.as_uri())
        page.wait_for_selector("[data-ready]")
        return page

    yield opened
    for context in contexts:
        context.close()


def _metrics(devtools):
    return {each["name"]: each["value"] for each in devtools.send("Performance.getMetrics")["metrics"]}
