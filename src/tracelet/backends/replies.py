"""What servers of any kind say over HTTP, and what libraries say of one that cannot be asked."""

from __future__ import annotations

import email.utils
import math
import time
from typing import Optional

__all__ = ["reason_of", "retry_after"]


def retry_after(value: Optional[str]) -> Optional[float]:
    """Return the seconds that a ``Retry-After`` header asks for, or None."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError, OSError, IndexError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def reason_of(error: BaseException) -> str:
    """Return the innermost reason of a chain of wrapped errors, in one line."""
    while True:
        following = getattr(error, "reason", None)
        if not isinstance(following, BaseException):
            following = next((arg for arg in error.args if isinstance(arg, BaseException)), None)
        if following is None:
            break
        error = following
    text = str(error).split(": ", 1)[-1] or type(error).__name__
    return " ".join(text.split())[:200]
