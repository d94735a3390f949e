"""Longer than the tests do, with other seeds: python -m tests.fuzz --seed 1 --minutes 10."""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.fuzz.command import ViolationError, pattern
from tests.fuzz.kinds import KINDS, attempt
from tests.fuzz.workshop import Workshop, without_work


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--from", type=int, default=0, dest="first", help="number of the first input of each kind")
    options = parser.parse_args()
    kinds = options.kinds.split(",")
    counts: Counter[tuple[str, int]] = Counter()
    sentences: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    seconds = dict.fromkeys(kinds, 0.0)
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        shop = Workshop(Path(folder))
        with without_work(shop):
            end = time.monotonic() + 60 * options.minutes
            for number, kind in ((number, kind) for number in itertools.count(options.first) for kind in kinds):
                started = time.monotonic()
                if started > end:
                    break
                try:
                    outcome = attempt(kind, number, options.seed, shop)
                except ViolationError as violation:
                    first = str(violation).strip().splitlines()
                    place = " | ".join(first[-3:])[-300:]
                    if not found[place]:
                        print(f"--- {kind} {number}\n{str(violation)[:2500]}\n", flush=True)
                    found[place] += 1
                else:
                    counts[kind, outcome.status] += 1
                    sentences[kind][pattern(outcome.message, shop.folder)] += 1
                seconds[kind] += time.monotonic() - started
    for kind in kinds:
        by_status = {status: count for (name, status), count in sorted(counts.items()) if name == kind}
        total = sum(by_status.values())
        print(
            f"{kind}: {total} inputs, by status {by_status}, {len(sentences[kind])} sentences, "
            f"{1000 * seconds[kind] / max(1, total):.0f} ms each"
        )
        for sentence, count in sentences[kind].most_common(12):
            print(f"  {count:6d} {sentence[:150]}")
    print(f"{counts.total() + sum(found.values())} inputs, {sum(found.values())} violations of {len(found)} kinds")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
