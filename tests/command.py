"""The command line for tests: in this process, and as a program that is given to another."""

from __future__ import annotations

import sys

from bench import cli

PROGRAM = """
import json, sys, time
from pathlib import Path
from bench.cli import main
ended = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["bench", *arguments]
    try:
        main()
    except SystemExit as end:
        ended.append(int(end.code or 0))
    heavy = sorted({"torch", "ray"} & sys.modules.keys())
    assert not heavy, f"{arguments} imports {heavy}"
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
seconds, squares = time.process_time(), 0
for number in range(1_000_000):
    squares += number * number % 7
slower = max(1, (time.process_time() - seconds) / LOOP)
print(json.dumps([ended, seconds / slower, int(peak.split()[1]) / 1024]))
""".replace("LOOP", "0.27")
"""A second of a processor is one of two cores of 2.0 GHz, where its last loop takes so long: that of a machine whose
host gives it less is shorter."""


ONE_FIGURE = """
from itertools import islice
from results.report import write
figures_of = write.figures_of
write.figures_of = lambda *of: islice(figures_of(*of), 1)
"""
"""Before the program: its reports have the first of their figures alone, which take longer than all the rest."""


def bench(*arguments: str) -> int:
    """Exit status of the command."""
    argv, sys.argv = sys.argv, ["bench", *arguments]
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = argv
    return 0
