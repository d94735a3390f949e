"""What a check of `bench doctor` finds, and how a check that fails itself is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from results.errors import BenchError

Verdict = Literal["right", "wrong", "slow", "skipped"]


@dataclass(frozen=True)
class Finding:
    """One line of the answer."""

    name: str
    """Of the check."""
    verdict: Verdict
    sentence: str
    """What was found."""
    remedy: str = ""
    """What to do, where something is wrong or slow."""
    host: str = ""
    """The node of a cluster; empty: this machine."""


def guarded(name: str, check: Callable[[], Finding | list[Finding]]) -> list[Finding]:
    """What the check finds; one that raises has found something wrong."""
    try:
        found = check()
    except (BenchError, OSError) as error:
        return [Finding(name, "wrong", str(error) or type(error).__name__)]
    except Exception as error:  # of any library: whatever keeps it from working is what the user wants to know
        lines = [*filter(None, str(error).splitlines()), ""]
        return [Finding(name, "wrong", f"the check itself failed: {type(error).__name__}: {lines[0].strip()}")]
    return found if isinstance(found, list) else [found]
