"""Removes passwords and tokens from URLs before they are printed, logged or stored.

Every error message and log record passes through here, so repetitions that could start anywhere in a text are bounded:
the time grows linearly with its length.
"""

from __future__ import annotations

import re

__all__ = ["mask_url", "redact_urls"]

_URL = re.compile(
    r"""
    (?P<scheme>[a-z][a-z0-9+.-]{0,40}://)
    # Up to white space, or to the next URL of a list.
    (?P<rest>(?:(?![,;|'"()<>\[\]{}]{1,5}[a-z][a-z0-9+.-]{0,40}://)\S)*)
    """,
    re.IGNORECASE | re.VERBOSE,
)
_DATABASES = ("postgres", "mysql", "mariadb", "mssql", "oracle")
"""Schemes in which a single word before the @ is a user name, not a token. The stored settings need it."""
_SPACED_PASSWORD = re.compile(r"(://[^:@/\s]{0,200}):(?!\d*(?:[/?#,;)\s]|$))[^\s@][^@\n]{0,500}@")
"""A password that contains a space. ``http://host:5000 refused bob@example.org`` has a port there, not a password."""
_SECRET = re.compile(
    r"([?&][^=&\s]{0,40}?(?:password|passwd|pwd|token|secret|api[_-]?key|signature|credential)[^=&\s]{0,100}=)"
    r"[^&\s]*?(?=[:.,;)'\"\]}]{0,5}(?:[&\s]|$))",  # without the punctuation of a sentence around the URL
    re.IGNORECASE,
)


def redact_urls(text: str) -> str:
    """Return a URL, or a text with URLs, with ``***`` for passwords, tokens before the @ and secrets in a query.

    The part before the @ can be ambiguous (``http://host:5000/a@b`` may contain a password with a slash). Then too much
    is hidden rather than too little.
    """
    text = _URL.sub(_redact_userinfo, text)
    return _SECRET.sub(r"\1***", _SPACED_PASSWORD.sub(r"\1:***@", text))


def mask_url(url: str) -> str:
    """Return only the scheme of a URL, e.g. ``slack://***``: any part of a webhook's URL may be secret."""
    scheme, found, _ = url.partition("://")
    return f"{scheme}://***" if found and scheme.isalnum() else "***"


def _redact_userinfo(url: re.Match[str]) -> str:
    scheme, rest = url["scheme"], url["rest"]
    userinfo, has_userinfo, after = rest.rpartition("@")
    user, has_password, _ = userinfo.partition(":")
    if not has_userinfo:
        return url[0]
    if has_password and not re.search(r"[/?#]", user):
        return f"{scheme}***@{after}" if "@" in user else f"{scheme}{user}:***@{after}"
    authority, path = re.fullmatch(r"([^/?#]*)(.*)", rest).groups()  # type: ignore[union-attr]  # always matches
    if "@" not in authority or scheme.lower().startswith(_DATABASES):
        return url[0]
    return f"{scheme}***@{authority.rpartition('@')[2]}{path}"
