"""The kinds of input: each draws one, lays it into the workshop's folder, and gives the command that reads it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from bench.settings.grid import SHIPPED
from tests.fuzz.command import Outcome, ViolationError, outcome_of
from tests.fuzz.files import damage_file
from tests.fuzz.odd import NUMBERS, TEXTS, mutate_bytes, mutate_tree, odd_value
from tests.fuzz.workshop import Workshop

NESTED = ("[", "{a=", '{"a":', "[[", "a.", "[a.")
FLAGS = ("--help", "--json", "--full", "--fresh", "--soft", "--dry-run", "--places", "--yes", "--quiet")
HEADER = "idx\tlabel\tpredict\tradius\tcorrect\ttime"


def grid(random: Random, shop: Workshop) -> list[str]:
    path = shop.folder / "grid.toml"
    if random.random() < 0.25:
        text = mutate_bytes(random, random.choice(shop.grid_texts).encode())
        path.write_bytes(text)
    elif random.random() < 0.05:
        path.write_text("methods = " + random.choice(NESTED) * random.choice((50, 1000, 20_000)))
    else:
        tree = shop.grid(random)
        for _ in range(random.choice((0, 1, 1, 1, 2, 4))):
            mutate_tree(random, tree)
        text = toml(tree).encode("utf-8", "surrogateescape")
        path.write_bytes(random.choice((b"", b"", b"", b"\xef\xbb\xbf")) + text)
    return ["run", "--grid", str(path), *_grid_options(random)]


def _grid_options(random: Random) -> list[str]:
    options = ["--data", "synthetic"] if random.random() < 0.8 else []
    if random.random() < 0.3:
        key = random.choice(
            ("certify.n", "train.epochs", "rows.generalised_ld.options.strength", "sigmas", "a.b", "certify", "")
        )
        options += ["--set", f"{key}={random.choice((*map(str, NUMBERS[:-4]), *TEXTS))}".replace("\0", "")]
    return options


def toml(tree: dict[str, Any]) -> str:
    """A tree as TOML text: one line for each of its keys."""
    return "".join(f"{_key(key)} = {_toml(value)}\n" for key, value in tree.items())


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} = {_toml(own)}" for key, own in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return str(value) if math.isfinite(value) else str(value).replace("inf", "inf")
    if value is None:
        return "1979-05-27T07:32:00Z"  # which TOML has and JSON has not
    return _quoted(value) if isinstance(value, str) else str(value)


def _key(key: object) -> str:
    return _quoted(str(key))


def _quoted(text: str) -> str:
    shown = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}" for c in shown) + '"'


def log(random: Random, shop: Workshop) -> list[str]:
    path = shop.folder / "log.tsv"
    lines = [HEADER]
    for index in range(0, 20 * random.choice((0, 1, 3, 12)), 20):
        label, predict = random.randrange(10), random.randrange(-1, 10)
        fields: list[object] = [index, label, predict, round(random.random(), 3) * (predict >= 0)]
        fields += [int(label == predict), random.choice(("0:00:16.5", "16.5", "1 day, 2:03:04"))]
        lines.append("\t".join(map(str, fields)))
    for _ in range(random.choice((0, 0, 1, 1, 2))):
        at = random.randrange(len(lines))
        fields = [*lines[at].split("\t")]
        fields[random.randrange(len(fields))] = random.choice((*NUMBERS[:-4], *TEXTS))
        lines[at] = "\t".join(map(str, random.choice((fields, fields[:-1], fields + fields, fields * 1000))))
    content = random.choice(("\n", "\n", "\r\n", "\r")).join(lines).encode("utf-8", "replace")
    if random.random() < 0.3:
        content = mutate_bytes(random, content)
    path.write_bytes(content)
    sigma = ["--sigma", random.choice((".25", ".5", ".5", "1", "1e-300", "99", "5e-324"))]
    method = random.choice(
        ("theirs", "smoothadv", "generalised_ld", *TEXTS) if random.random() < 0.2 else ("theirs", "new")
    ).replace("\0", "")
    command = ["import", str(path), *sigma, "--method", method]
    if random.random() < 0.2:  # guessed
        command = ["import", str(path), *random.choice((sigma, [])), *random.choice((["--yes"], ["--yes"], []))]
    for option in ("--n", "--n0", "--alpha", "--seed", "--skip", "--dataset", "--model"):
        if random.random() < 0.03:
            command += [option, str(random.choice((*NUMBERS[:-4], *TEXTS))).replace("\0", "")]
    out = random.choice((shop.run, shop.folder / "new", shop.folder / "new"))
    return [*command, "--out", str(out)]


def records(random: Random, shop: Workshop) -> list[str]:
    """A run with a damaged JSON or Parquet file, for the commands that only read and report."""
    for _ in range(random.choice((1, 1, 1, 2))):
        damage_file(random, shop, random.choice(shop.files_of(shop.run)))
    command = random.choice(("report", "report", "status", "status", "status", "compare", "watch"))
    if command == "report" and random.random() < 0.3:  # from the merged files alone
        shop.unlink(shop.run / "run.json")
    options = ["--methods", "generalised_ld,gaussian", *random.choice(([], ["--json"]))] if command == "compare" else []
    options += ["--port", "0"] if command == "watch" else []
    return [command, str(shop.run), *options]


def weights(random: Random, shop: Workshop) -> list[str]:
    """A trained run with a damaged file, for the command that opens its model."""
    damage_file(random, shop, random.choice(shop.files_of(shop.trained)))
    return [random.choice(("verify", "verify", "status", "report")), str(shop.trained)]


def arguments(random: Random, shop: Workshop) -> list[str]:
    """Real commands with real options, in any order, with odd values."""
    command, options = random.choice(shop.commands)
    line = command.split()
    for _ in range(random.randrange(5)):
        option = random.choice(options) if options else "--help"
        line.append(option)
        if random.random() < 0.9 and option not in FLAGS:
            line.append(_word(random, shop))
    for _ in range(random.choice((0, 1, 1, 1, 2))):
        line.append(str(shop.run) if random.random() < 0.45 else _word(random, shop))  # most commands want a run
    if random.random() < 0.1:
        random.shuffle(line)
    return [word.replace("\0", "") for word in line]


def _word(random: Random, shop: Workshop) -> str:
    places = (shop.run, shop.folder, shop.folder / "none", shop.folder / "fifo", Path("/dev/null"), Path("/dev/zero"))
    kind = random.randrange(5)
    if kind == 0:
        return str(random.choice(NUMBERS[:-4]))
    if kind == 1:
        return random.choice((*TEXTS, "\udcff", "--", "-", ",", "a,b", ".25,.5", "auto", "127.0.0.1:1"))
    if kind == 2:
        return str(random.choice(places))
    return random.choice(
        (*SHIPPED, "synthetic", "thesis", "generalised_ld", "1", "0.5", f"{shop.run}/{odd_value(random, 0)}")
    )


def attempt(kind: str, number: int, seed: int, shop: Workshop) -> Outcome:
    """Lay out one input, anew, and run the command that reads it.

    Raises:
        ViolationError: as `outcome_of`; a note says how to have it again.
    """
    shop.restore()
    try:
        return outcome_of(KINDS[kind](Random(f"{seed} {kind} {number}"), shop), shop.folder)
    except ViolationError as violation:
        violation.add_note(f"again: python -m tests.fuzz --kinds {kind} --seed {seed} --from {number}")
        raise


KINDS: dict[str, Callable[[Random, Workshop], list[str]]] = {
    "grid": grid,
    "log": log,
    "records": records,
    "weights": weights,
    "arguments": arguments,
}
