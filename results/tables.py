"""Tables 5.1 and 5.2 of the thesis: measured beside published."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pandas as pd

from results import published
from results.metrics import average_certified_radius, certified_accuracy
from results.run import Run

RADII = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


@dataclass(frozen=True)
class Column:
    """A column of numbers."""

    key: str
    heading: str
    decimals: int | None
    """None: three significant digits."""
    best: str = ""
    """"max" or "min": which value is set in bold; empty for none."""
    unit: str = ""


@dataclass(frozen=True)
class Row:
    sigma: float
    method: str
    title: str
    measured: dict[str, float]
    published: dict[str, float]


@dataclass(frozen=True)
class ResultTable:
    """A table, before it is formatted."""

    name: str
    title: str
    columns: list[Column]
    rows: list[Row]
    caption: list[str]
    """Sentences: how the measured numbers came about."""
    notes: list[str] = field(default_factory=list)
    """Sentences: what is odd about the published ones."""

    def best(self, row: Row, column: Column) -> bool:
        """Whether the row's measured value is the best of its σ."""
        if not column.best or column.key not in row.measured:
            return False
        values = [other.measured[column.key] for other in self.rows if other.sigma == row.sigma]
        best = max(values) if column.best == "max" else min(values)
        return len(set(values)) > 1 and row.measured[column.key] == best


def table_5_1(run: Run) -> ResultTable:
    """Certified accuracy (percent) and ACR of every method and σ; several seeds are averaged."""
    columns = [Column("acr", "ACR", 3, "max"), Column("r0.00", "ACC", 1, "max")]
    columns += [Column(f"r{radius:.2f}", f"{radius:.2f}", 1, "max") for radius in RADII]
    reference = published.table_5_1()
    rows = [
        Row(
            group.sigma,
            group.method,
            group.title,
            _accuracies(group.certificates),
            reference.get((group.sigma, group.method), {}),
        )
        for group in certified_groups(run)
    ]
    return ResultTable(
        "table_5_1",
        "Table 5.1: certified accuracy (%) and average certified radius (ACR)",
        columns,
        rows,
        [*caption(run), f"In parentheses: published (thesis Table 5.1; {published.PUBLISHED_SETTING})."],
        list(published.NOTES_5_1),
    )


def table_5_2(run: Run) -> ResultTable:
    """ACR, accuracy, training memory and wall-clock time at σ = .25, or the smallest σ of the run."""
    trained_here = run.trials[run.trials["train_seconds"].notna()]
    rows_here = run.certificates["trial_id"].isin(trained_here["trial_id"])
    run = replace(run, trials=trained_here, certificates=run.certificates[rows_here])
    sigma = 0.25 if (run.trials["sigma"] == 0.25).any() else run.trials["sigma"].min()
    columns = [
        Column("acr", "ACR", 3, "max"),
        Column("accuracy_percent", "ACC", 1, "max", "%"),
        Column("memory_gb", "Memory", None, "min", "GB"),
        Column("member_memory_gb", "one member", None, "", "GB"),
        Column("runtime_hours", "Runtime", None, "min", "h"),
    ]
    reference = published.table_5_2()
    rows = [
        Row(sigma, group.method, group.title, _costs(run, group), reference.get((sigma, group.method), {}))
        for group in certified_groups(run, published.TABLE_5_2_ORDER)
        if group.sigma == sigma
    ]
    kinds = {
        "accelerator": "peak accelerator memory",
        "resident": "peak resident memory of the training processes, which includes the libraries they load",
    }
    memory = " and ".join(kinds[kind] for kind in run.trials["memory_kind"].unique())
    workers = _values(run.trials["workers"])
    measured = (
        f"Memory: {memory}, summed over {workers} worker{'' if workers == '1' else 's'} and an ensemble's members. "
        "Runtime: training, wall clock."
    )
    return ResultTable(
        "table_5_2",
        f"Table 5.2: cost of training at σ = {sigma:g}",
        columns,
        rows,
        [
            *caption(run),
            measured,
            "In parentheses: published (thesis Table 5.2).",
        ],
        list(published.NOTES_5_2),
    )


def caption(run: Run) -> list[str]:
    """How the numbers of a run were measured, and whether they compare with the published ones."""
    trials, certificates = run.trials, run.certificates
    seeds = trials.groupby(["method", "sigma"])["seed"].nunique().max()
    trained = "trained elsewhere"
    if trials["device"].notna().any():
        trained = f"trained on {_values(trials['device'])} in {_values(trials['train_precision'])}"
    at_most = " at most (sequential)" if (certificates["estimator"] == "sequential").any() else ""
    measured = (
        f"{_values(trials['model'])} on {_values(trials['dataset'])}, {_values(trials['images'])} test images, "
        f"n = {_values(trials['n'])}{at_most}, n0 = {_values(trials['n0'])}, "
        f"alpha = {_values(trials['alpha'])}, "
        f"{'mean of ' if seeds > 1 else ''}{seeds} training seed{'s' if seeds > 1 else ''}; "
        f"{trained}, "
        f"certified on {_values(certificates['device'])} in {_values(certificates['precision'])} "
        f"({_values(certificates['engine'])})."
    )
    reasons = []
    if not trials["dataset"].str.match(r"cifar10(?!\d)").all():
        reasons.append("the data is not CIFAR-10")
    elif (trials["dataset"] != "cifar10").any():
        reasons.append("the images are a copy of CIFAR-10, which may be partial or compressed")
    if (trials["model"] != "resnet110").any():
        reasons.append("the network is not ResNet-110")
    if (trials["n"] < 100_000).any():
        reasons.append("n is below 100 000, which lowers every radius")
    if not reasons:
        return [measured]
    return [measured, f"Not comparable with the published numbers: {'; '.join(reasons)}."]


@dataclass(frozen=True)
class Group:
    """The certificates of one row of a table: one method at one σ, all seeds."""

    sigma: float
    method: str
    title: str
    certificates: pd.DataFrame


def certified_groups(run: Run, order: tuple[str, ...] = published.TABLE_5_1_ORDER) -> list[Group]:
    """By σ; within it in the given order of methods, then in the run's own."""
    methods = list(dict.fromkeys([*order, *run.trials["method"]]))
    names = run.trials.groupby("title")["method"].nunique()
    titles = run.trials.set_index("method")["title"].to_dict()
    groups = []
    for sigma, method in run.trials[["sigma", "method"]].drop_duplicates().itertuples(index=False, name=None):
        rows = (run.certificates["sigma"] == sigma) & (run.certificates["method"] == method)
        title = titles[method]
        # Variants of one method share its title: then the row's own name tells them apart.
        groups.append(
            Group(sigma, method, f"{title} [{method}]" if names[title] > 1 else title, run.certificates[rows])
        )
    return sorted(groups, key=lambda group: (group.sigma, methods.index(group.method)))


def _accuracies(certificates: pd.DataFrame) -> dict[str, float]:
    """ACR and certified accuracies (percent), each the mean over the seeds."""
    seeds = [rows for _, rows in certificates.groupby("trial_id")]
    values = {"acr": sum(average_certified_radius(rows) for rows in seeds) / len(seeds)}
    for radius in (0, *RADII):
        values[f"r{radius:.2f}"] = 100 * sum(certified_accuracy(rows, radius) for rows in seeds) / len(seeds)
    return values


def _costs(run: Run, group: Group) -> dict[str, float]:
    trials = run.trials[run.trials["trial_id"].isin(group.certificates["trial_id"])]
    accuracies = _accuracies(group.certificates)
    costs = {
        "acr": accuracies["acr"],
        "accuracy_percent": accuracies["r0.00"],
        "memory_gb": trials["memory_bytes"].mean() / 1e9,
        "runtime_hours": trials["train_seconds"].mean() / 3600,
    }
    if (trials["memory_bytes"] > trials["member_memory_bytes"]).any():
        costs["member_memory_gb"] = trials["member_memory_bytes"].mean() / 1e9
    return costs


def _values(column: pd.Series) -> str:
    """The distinct values of a column, for a sentence."""
    column = column.dropna()  # unknown where a model was trained elsewhere; integers are floats then
    if pd.api.types.is_float_dtype(column) and (column % 1 == 0).all():
        column = column.astype("int64")
    values = column.unique()
    if pd.api.types.is_integer_dtype(column):
        return " or ".join(f"{value:,}".replace(",", " ") for value in sorted(values))
    return " or ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)
