"""One line for an error of a library. Without torch, which takes seconds to import."""

from __future__ import annotations

import sys


def reason_of(error: BaseException) -> str:
    """An error's kind, and of what it says the first line; the last one of a traceback; a compiler's own first error.

    What torch's compiler raises is told as what went wrong in it.
    """
    if is_out_of_memory(error):
        return "out of memory"
    if isinstance(inner := getattr(error, "inner_exception", None), BaseException):
        return reason_of(inner)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    line = lines[-1] if "raceback" in str(error) else next((line for line in lines if "error: " in line), lines[0])
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, the accelerator's or the machine's, did not suffice."""
    torch = sys.modules.get("torch")  # whose error it can be once it is imported
    of_torch = torch is not None and isinstance(error, torch.OutOfMemoryError)
    return of_torch or isinstance(error, MemoryError) or "can't allocate memory" in str(error)
