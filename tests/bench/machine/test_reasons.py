"""One line for an error: of its text, what a user can act on."""

from __future__ import annotations

import torch

from bench.machine.reasons import reason_of


def test_the_first_line_or_the_last_of_a_traceback_or_a_compilers_first_error() -> None:
    command = "g++ /tmp/x.cpp -std=c++20 -D NAME -o /tmp/x.o"
    compiler = (
        f"C++ compile error\n\nCommand:\n{command}\n\nOutput:\nx.cpp:3:10: fatal error: omp.h: No such file\nx.cpp:4"
    )
    for text, said in [
        ("\n  no such operator \nSet TORCH_LOGS", "ValueError: no such operator"),
        ("Traceback (most recent call last):\n  File 'x'\nKeyError: 'a'", "ValueError: KeyError: 'a'"),
        (compiler, "ValueError: x.cpp:3:10: fatal error: omp.h: No such file"),
        ("", "ValueError"),
    ]:
        assert reason_of(ValueError(text)) == said
    assert reason_of(torch.OutOfMemoryError("CUDA out of memory. Tried to …")) == "out of memory"
