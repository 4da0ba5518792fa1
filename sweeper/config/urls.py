"""URLs as they may be shown and stored: without passwords and tokens."""

from __future__ import annotations

import re

__all__ = ["mask_url", "redact_url"]

_USERINFO = re.compile(r"://([^:@/]*):.*@")
_SECRET = re.compile(r"([?&](?:password|passwd|pwd|token|secret|sslpassword|api_key)=)[^&]*", re.IGNORECASE)


def redact_url(url: str) -> str:
    """Return ``url`` with any password in it replaced by ``***``."""
    return _SECRET.sub(r"\1***", _USERINFO.sub(r"://\1:***@", url))


def mask_url(url: str) -> str:
    """Return of a URL what it is for, ``slack://***``: of a webhook's URL any part may be the secret."""
    scheme, found, _ = url.partition("://")
    return f"{scheme}://***" if found and scheme.isalnum() else "***"
