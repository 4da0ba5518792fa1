"""Sends the summary of a session to webhooks, mail or chat; the only importer of Apprise.

A notification never fails a search, and delays only its exit: every URL has its own thread, a few attempts and a time
limit, and a failure is one line in the log. URLs contain tokens, so messages show only their scheme. `session_recorder`
sends; `run` checks the URLs before anything starts.
"""

from __future__ import annotations

import logging
import threading
import time
import warnings
from contextlib import suppress
from functools import cache
from types import ModuleType

from sweeper.config.settings import NotifySettings
from sweeper.errors import ConfigError
from sweeper.urls import mask_url, redact_urls

__all__ = ["check_urls", "send"]

log = logging.getLogger(__name__)
_ATTEMPTS = 3
_PAUSE_S = 2.0
"""Pause before the second attempt; doubled before each later one."""
_TIMEOUT_S = 45.0
"""For all attempts and pauses together, including Apprise's timeouts of 4 s to connect and 4 s to read."""


def check_urls(settings: NotifySettings) -> None:
    """Check that Apprise supports every URL.

    Raises:
        ConfigError: It does not support one. The error contains only its position and scheme.
    """
    for position, url in enumerate(settings.urls):
        apprise, parts = _load(), url.split()
        if not parts or any(apprise.Apprise.instantiate(part, suppress_exceptions=True) is None for part in parts):
            remedy = "Write a URL that Apprise supports, e.g. jsons://host/path or mailto://...; see its documentation."
            key = f"notify.urls[{position}]"
            raise ConfigError(key, mask_url(url), "this is not the URL of a known notification service", remedy)


def send(
    settings: NotifySettings,
    title: str,
    text: str,
    *,
    attempts: int = _ATTEMPTS,
    pause_s: float = _PAUSE_S,
    timeout_s: float = _TIMEOUT_S,
) -> list[str]:
    """Send a message to every URL, concurrently; wait for at most ``timeout_s``, and never raise.

    Args:
        settings: The URLs; several may share one entry, separated by spaces.
        title: Title of the message.
        text: Text of the message.
        attempts: Attempts per URL.
        pause_s: Seconds before the second attempt; doubled before each later one.
        timeout_s: Seconds for all attempts together.

    Returns:
        A line for each URL that failed; empty if none did.
    """
    title, text = redact_urls(title), redact_urls(text)
    urls = [part for url in settings.urls for part in url.split()]
    failures = dict.fromkeys(range(len(urls)), f"no answer within {timeout_s:g} s")
    deadline = time.monotonic() + timeout_s

    def deliver(number: int) -> None:
        problem = ""
        for attempt in range(attempts):
            if attempt:
                time.sleep(pause_s * 2 ** (attempt - 1))
            problem = _send_once(urls[number], title, text)
            if not problem:
                failures.pop(number)
                return
        failures[number] = f"{problem}, {attempts} times"

    with suppress(Exception):
        _load()  # in this thread, since it changes the warning filters; if it fails, so does every URL below
    # Daemon threads, so that a hung one does not keep the process alive.
    threads = [threading.Thread(target=deliver, args=(number,), daemon=True) for number in range(len(urls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    # A copy, since a thread that is late may still change it.
    lines = [f"{mask_url(urls[number])}: {problem}" for number, problem in sorted(dict(failures).items())]
    for line in lines:
        log.warning("the summary was not sent to %s", line)
    return lines


def _send_once(url: str, title: str, text: str) -> str:
    try:
        apprise = _load()
        target = apprise.Apprise()
        is_sent = target.add(url) and target.notify(body=text, title=title, body_format=apprise.NotifyFormat.TEXT)
    except Exception as error:  # noqa: BLE001  third-party code of many services; the search must continue
        # The error message may contain the URL, so it is not shown.
        return f"failed with {type(error).__name__}"
    return "" if is_sent else "was refused or not reached"


@cache
def _load() -> ModuleType:
    """Import Apprise and silence its logger, which logs host names; for some services these are tokens."""
    # A filter, since configuring logging anew would enable a logger that is only disabled.
    logging.getLogger("apprise").addFilter(lambda _record: False)
    with warnings.catch_warnings():
        # With its first URL, Apprise imports modules that Python has deprecated.
        warnings.simplefilter("ignore")
        import apprise

        apprise.Apprise.instantiate("json://localhost")
    return apprise
