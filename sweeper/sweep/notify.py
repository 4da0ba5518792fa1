"""Sends the summary of a session to webhooks, mail or chat; the only importer of Apprise.

A notification never delays or fails a search: every address has its own thread, a few attempts and a time limit, and a
failure is one line in the log. Addresses hold tokens, so our messages show no more of them than their scheme.
`session_recorder` sends; `run` checks the addresses before anything starts.
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
from sweeper.config.urls import mask_url
from sweeper.errors import ConfigError

__all__ = ["check_urls", "send"]

log = logging.getLogger(__name__)
_ATTEMPTS = 3
_PAUSE_S = 2.0
"""Before the second attempt; doubled before each further one."""
_TIMEOUT_S = 45.0
"""For all attempts and pauses together, Apprise's own limits of 4 s to connect and 4 s to answer included."""


def check_urls(settings: NotifySettings) -> None:
    """Check that each address is one that Apprise knows.

    Raises:
        ConfigError: One is not; the error names its position and scheme only.
    """
    for position, url in enumerate(settings.urls):
        if not url.split() or not all(_is_known(part) for part in url.split()):
            remedy = "Write a URL that Apprise supports, e.g. jsons://host/path or mailto://...; see its documentation."
            key = f"notify.urls[{position}]"
            raise ConfigError(key, mask_url(url), "no notification service has addresses like this", remedy)


def send(
    settings: NotifySettings,
    title: str,
    text: str,
    *,
    attempts: int = _ATTEMPTS,
    pause_s: float = _PAUSE_S,
    timeout_s: float = _TIMEOUT_S,
) -> list[str]:
    """Send a text to every address, all at once; wait for ``timeout_s`` at most, and never raise.

    Returns:
        A line for each address that was not reached; empty if all were.
    """
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
        _load()  # in this thread, since it changes the warning filters; if it fails, so does every address below
    # Daemon threads: one that hangs must not keep the process alive.
    threads = [threading.Thread(target=deliver, args=(number,), daemon=True) for number in range(len(urls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    # A copy, since a late thread may still change it.
    lines = [f"{mask_url(urls[number])}: {problem}" for number, problem in sorted(dict(failures).items())]
    for line in lines:
        log.warning("the summary was not sent to %s", line)
    return lines


def _send_once(url: str, title: str, text: str) -> str:
    try:
        apprise = _load()
        target = apprise.Apprise()
        is_sent = target.add(url) and target.notify(body=text, title=title, body_format=apprise.NotifyFormat.TEXT)
    except Exception as error:  # noqa: BLE001  a hundred services of others: whatever they raise, the search continues
        # The error's message may hold the address, so it is not shown.
        return f"failed with {type(error).__name__}"
    return "" if is_sent else "was refused or not reached"


def _is_known(url: str) -> bool:
    return _load().Apprise.instantiate(url, suppress_exceptions=True) is not None


@cache
def _load() -> ModuleType:
    """Return Apprise with its logger disabled: it logs hosts, which are the tokens of some services."""
    with warnings.catch_warnings():
        # At its first address it imports modules that Python has deprecated.
        warnings.simplefilter("ignore")
        import apprise

        apprise.Apprise.instantiate("json://localhost")
    logging.getLogger("apprise").disabled = True
    return apprise
