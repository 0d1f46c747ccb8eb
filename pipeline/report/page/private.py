"""Takes out of a text what a page that is passed on must not show: local paths, host names and addresses."""

from __future__ import annotations

import re
import socket
from collections.abc import Collection

# An absolute path, or one below a home folder, not within a word or a URL. Only its last part is kept.
_PATH = re.compile(r"(?<![\w/:.~])(?:~[\w.-]*|[A-Za-z]:)?(?:[/\\][^\s/\\'\"`<>|:;,()\[\]{}]+)+[/\\]?")
_URL = re.compile(r"\b([a-z][a-z0-9+.-]{1,15})://[^\s'\"`<>()\[\]{}]+", re.IGNORECASE)
_ADDRESS = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?(?![\w.])")
_HIDDEN = "…"


def without_places(text: str, hosts: Collection[str] = ()) -> str:
    """Return a text without local paths (their last part stays), addresses, URLs and the names of hosts.

    Args:
        hosts: names of machines that may occur in the text; this machine's name is always one.
    """
    text = _URL.sub(_without_location, text)
    text = _PATH.sub(_last_part, text)
    text = _ADDRESS.sub(_HIDDEN, text)
    for host in {*hosts, socket.gethostname()}:
        if len(host) > 1:
            text = re.sub(rf"(?<![\w.-]){re.escape(host)}(?![\w-])", _HIDDEN, text)
    return text


def _without_location(found: re.Match[str]) -> str:
    return f"{found[1]}://{_HIDDEN}"


def _last_part(found: re.Match[str]) -> str:
    parts = re.split(r"[/\\]+", found[0].rstrip("/\\"))
    if len(parts) == 2 and not parts[0]:
        return found[0]  # one word after a slash, such as "and /or": no folder is named
    return f"{_HIDDEN}/{parts[-1]}"
