"""Tells people how a night was: webhooks, mail, chat. The only importer of Apprise, which knows a hundred services.

Nothing here may hurt a search: every address has its own thread, a few tries and an end, and what fails is one line in
the log. Addresses hold tokens, so no message of ours repeats more of them than their scheme. `night` sends, `sweep`
checks the addresses before anything starts.
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
_TRIES = 3
_PAUSE_S = 2.0
"""Before the second try; twice as long before each further one."""
_TIMEOUT_S = 45.0
"""For everything together: tries, pauses, and Apprise's own time limits of 4 s to connect and 4 s to answer."""


def check_urls(settings: NotifySettings) -> None:
    """Check that each address is one that Apprise knows.

    Raises:
        ConfigError: One is not; it is named by its place and scheme only.
    """
    for position, url in enumerate(settings.urls):
        if not url.split() or not all(_is_known(part) for part in url.split()):
            remedy = "Write what Apprise takes, e.g. jsons://host/path or mailto://...; its documentation has all."
            key = f"notify.urls[{position}]"
            raise ConfigError(key, mask_url(url), "this is no address of a known service", remedy)


def send(
    settings: NotifySettings,
    title: str,
    text: str,
    *,
    tries: int = _TRIES,
    pause_s: float = _PAUSE_S,
    timeout_s: float = _TIMEOUT_S,
) -> list[str]:
    """Send a text to every address, all at once; wait for as long as ``timeout_s``, and never raise.

    Returns:
        What went wrong, a line an address; empty if everybody was told.
    """
    urls = [part for url in settings.urls for part in url.split()]
    failures = dict.fromkeys(range(len(urls)), f"no answer within {timeout_s:g} s")
    deadline = time.monotonic() + timeout_s

    def tell(number: int) -> None:
        wrong = _try(urls[number], title, text, tries=tries, pause_s=pause_s)
        failures.pop(number) if not wrong else failures.update({number: wrong})

    with suppress(Exception):
        _load()  # here, since what it does with warnings is not for threads; without it every address fails below
    # Daemons: one that hangs for ever keeps no process alive.
    threads = [threading.Thread(target=tell, args=(number,), daemon=True) for number in range(len(urls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    # A copy: who comes late may still answer.
    lines = [f"{mask_url(urls[number])}: {wrong}" for number, wrong in sorted(dict(failures).items())]
    for line in lines:
        log.warning("the summary was not sent to %s", line)
    return lines


def _try(url: str, title: str, text: str, *, tries: int, pause_s: float) -> str:
    """Send to one address; return what went wrong in the end, or an empty text."""
    for number in range(tries):
        if number:
            time.sleep(pause_s * 2 ** (number - 1))
        wrong = _send_once(url, title, text)
        if not wrong:
            return ""
    return f"{wrong}, {tries} times"


def _send_once(url: str, title: str, text: str) -> str:
    try:
        apprise = _load()
        target = apprise.Apprise()
        is_sent = target.add(url) and target.notify(body=text, title=title, body_format=apprise.NotifyFormat.TEXT)
    except Exception as error:  # noqa: BLE001  a hundred services of others: whatever they raise, the search goes on
        # The message may repeat the address, so it is not told.
        return f"failed with {type(error).__name__}"
    return "" if is_sent else "was refused or not reached"


def _is_known(url: str) -> bool:
    return _load().Apprise.instantiate(url, suppress_exceptions=True) is not None


@cache
def _load() -> ModuleType:
    """Return Apprise, without its log lines: they repeat hosts, which are the tokens of some services."""
    with warnings.catch_warnings():
        # It imports modules that Python is about to drop, at the first look at an address.
        warnings.simplefilter("ignore")
        import apprise

        apprise.Apprise.instantiate("json://localhost")
    logging.getLogger("apprise").disabled = True
    return apprise
