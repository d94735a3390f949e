"""What the trials were told to do and what they ran on, as keys and values."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from typing import Any

from results.analysis.groups import Group
from results.printable import named_sigma, sigma_text
from results.report.caption import distinct
from results.report.page.content import Block, Differing, GridContent, Settings
from results.store.records import GroupRecord, RunRecord
from results.store.run import Run
from results.store.secrecy import placeless, without_place
from results.toml import to_toml

# They are how a trial is called on the page.
_NAMES = ("name", "sigma", "seed")
Trial = tuple[str, float, int]
"""Title, σ, seed."""


def settings(groups: list[Group], *, places: bool = False) -> Settings:
    """`shared`: the keys on which all trials agree; `differing`: the others, each with its values and whose they are.

    A key that some trials lack, such as those imported, differs, too; those with one value stand below the others.
    """
    trials: dict[Trial, dict[str, str]] = {}
    for group in groups:
        own = group.trials[["seed", "settings", "dataset"]]
        for seed, text, dataset in own.itertuples(index=False, name=None):
            told = json.loads(text)
            told = told if places else without_place(told, dataset)
            trials[group.title, group.sigma, int(seed)] = dict(_flatten(told))
    differing: list[Differing] = []
    shared: list[tuple[str, str]] = []
    for key in dict.fromkeys(key for flat in trials.values() for key in flat if key not in _NAMES):
        owners: dict[str, list[Trial]] = {}
        for trial, flat in trials.items():
            if key in flat:
                owners.setdefault(flat[key], []).append(trial)
        if len(owners) == 1 and len(next(iter(owners.values()))) == len(trials):
            shared.append((key, next(iter(owners))))
        else:
            values = [(value, _whose(own, list(trials))) for value, own in owners.items()]
            differing.append({"key": key, "values": values})
    return {"differing": sorted(differing, key=lambda row: len(row["values"]) == 1), "shared": shared}


def grids(run: Run, *, places: bool = False) -> list[GridContent]:
    """The grid of each run that has one, as it can be run again.

    A folder of images is known by the fingerprint in its name, not by its place, unless that is asked for: then
    whoever runs the grid again says where it is, and is refused otherwise.
    """
    found: list[GridContent] = []
    for description in run.descriptions:
        if not description.grid:
            continue
        grid, data = dict(description.grid), ""
        if not places:
            grid = without_place(grid, _dataset(run, description))
            if grid["data"] != description.grid.get("data") and "@" in str(grid["data"]):
                data = " --data FOLDER"
        plugin = " --plugin FILE" if _has_plugin(description) else ""
        several = f" of run {len(found) + 1}" if len(run.descriptions) > 1 else ""
        command = f"bench run --grid grid.toml{data}{plugin}"
        found.append({"title": f"The grid{several}", "toml": to_toml(grid), "command": command})
    return found


def _dataset(run: Run, description: RunRecord) -> str:
    """What tables call the data of the run's last command."""
    own = run.trials[run.trials["trial_id"].isin(description.trials)]["dataset"]
    return str(own.iloc[-1]) if len(own) else "unknown"


def _has_plugin(description: RunRecord) -> bool:
    """Whether a method, a network or the data was of a file that is named on the command line."""
    return any(word.partition("=")[0] == "--plugin" for word in description.command)


def environment(run: Run, *, places: bool = False) -> list[Block]:
    """Titled lists of names and values: the machines, then run.json of each run, but for its grid."""
    trials, certificates = run.trials, run.certificates
    machines = {
        "Trained on": distinct(trials["device"]),
        "Training precision": distinct(trials["train_precision"]),
        "Workers of a trial": distinct(trials["workers"]),
        "Certified on": distinct(certificates["device"]),
        "Certification precision": distinct(certificates["precision"]),
        "Engine": distinct(certificates["engine"]),
        "torch": distinct(certificates["torch_version"]),
    }
    known = [item for item in machines.items() if item[1]]
    blocks: list[Block] = [{"title": "Machines", "entries": known}] if known else []
    for number, description in enumerate(run.descriptions, 1):
        command = description.command if places else placeless(description.command)
        entries = [
            ("command", " ".join(map(_word, command)) or "none"),
            ("time", description.time or "unknown"),
            ("workers of a trial", _group(description.group)),
            ("git_commit", description.git_commit or "none"),
            ("schema_version", str(description.schema_version)),
        ]
        entries += [(key, _text(value)) for key, value in description.versions.items()]
        title = "Run" if len(run.descriptions) == 1 else f"Run {number}"
        blocks.append({"title": title, "entries": entries})
    return blocks


def _flatten(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _text(value)


def _text(value: Any) -> str:
    if value is None or value == "":
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _word(word: str) -> str:
    return shlex.quote(word) if re.search(r"[\s'\"\\$]", word) else word


def _group(group: GroupRecord | None) -> str:
    if group is None:
        return "none"
    return f"{group.workers} × {group.cpus_per_worker:g} CPU, {group.gpus_per_worker:g} GPU"


def _whose(own: list[Trial], trials: list[Trial]) -> str:
    """The trials in few words: all of a σ, all of a method, or one by one."""
    rest = [trial for trial in trials if trial not in own]
    if not {sigma for _, sigma, _ in own} & {sigma for _, sigma, _ in rest}:
        return f"all with σ = {' or '.join(sigma_text(sigma) for sigma in sorted({sigma for _, sigma, _ in own}))}"
    titles, cells = {title for title, _, _ in rest}, {(title, sigma) for title, sigma, _ in rest}
    names = []
    for title, sigma, seed in own:
        if title not in titles:
            names.append(title)
        elif (title, sigma) not in cells:
            names.append(f"{title} ({named_sigma(sigma)})")
        else:
            names.append(f"{title} ({named_sigma(sigma)}, seed {seed})")
    return ", ".join(dict.fromkeys(names))
