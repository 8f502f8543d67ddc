"""When a period begins that somebody names, as in `--since 30d`."""

import re
from datetime import UTC, datetime

from policies.errors import InvalidInput

__all__ = ["since_of"]

UNITS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}
LONGEST_SECONDS = 3660 * 86_400


def since_of(text: str, now: float) -> float:
    """When the period begins that `text` names, in Unix seconds.

    Raises:
        InvalidInput: it names none, or one that hasn't begun.
    """
    wrong = InvalidInput(
        f"`--since {text[:40]}` isn't a period; say `7d`, `12h`, `30m`, `4w`, or a UTC date such as `2026-11-01`."
    )
    if match := re.fullmatch(r"([1-9][0-9]{0,5})([mhdw])", text):
        seconds = int(match[1]) * UNITS[match[2]]
        if seconds > LONGEST_SECONDS:
            raise InvalidInput("`--since` goes back ten years at most.")
        return now - seconds
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        raise wrong
    try:
        began = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise wrong from None
    if began >= now:
        raise InvalidInput(f"`--since {text}` hasn't begun yet.")
    return max(began, now - LONGEST_SECONDS)
