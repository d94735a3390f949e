"""What must not be written into files or logs."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SECRET = re.compile(
    r"secret|token|passw|credential|signature|(access|account|api|private|sas)[-_]?key|^(x-amz-\w+|sig|sas|auth)$", re.I
)
_IN_URL = re.compile(r"(?<=://)[^/@\s]*:[^/@\s]*(?=@)")
_ASSIGNED = re.compile(r"([\w.-]+)(=)([^&\s,;\"']+)")


def is_secret(name: str) -> bool:
    """Whether a value of that name is likely a credential: AWS_SECRET_ACCESS_KEY, token, --password."""
    return bool(_SECRET.search(name))


def masked(words: Sequence[str]) -> list[str]:
    """A command line in which *** stands for what looks like a credential: user:password@ in a URL, name=value and
    --name value where the name says so."""
    found = []
    hide = False
    for word in words:
        if hide and not word.startswith("-"):
            found.append("***")
        else:
            text = _IN_URL.sub("***", word)
            found.append(_ASSIGNED.sub(lambda match: _assigned(*match.groups()), text))
        hide = word.startswith("-") and "=" not in word and is_secret(word.lstrip("-"))
    return found


def _assigned(name: str, sign: str, value: str) -> str:
    return f"{name}{sign}{'***' if is_secret(name) else value}"
