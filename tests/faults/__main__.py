"""The command line of the fault harness."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from random import Random

from tests.faults.plan import draw
from tests.faults.report import as_text
from tests.faults.whole import disturb


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the faults and their moments")
    parser.add_argument("--faults", type=int, default=110, help="how many")
    parser.add_argument("--out", type=Path, required=True, help="a folder that does not exist yet")
    parser.add_argument("--json", action="store_true", help="the report as JSON, on stdout's last line")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # processes and mounts are cleared away first
    outcome = disturb(options.out.absolute(), options.seed, *draw(Random(options.seed), options.faults))
    print(json.dumps(asdict(outcome)) if options.json else as_text(outcome))
    return 1 if outcome.problems else 0


if __name__ == "__main__":
    sys.exit(main())
