"""Certified accuracy and cost, measured beside published (Tables 5.1 and 5.2 of the thesis), and what ACR hides."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import pandas as pd

from results.analysis import published
from results.analysis.base_classifier import CLEAN, NOISY, base_accuracy, has_base_answers, suspicions
from results.analysis.budget import BUDGETS, MOST, at_budget
from results.analysis.convergence import LEVEL, common_level, epochs_to_level, final_accuracies
from results.analysis.envelope import envelopes
from results.analysis.groups import SAME, Group, in_order, of_published_data, setting_of
from results.analysis.metrics import (
    RADII,
    average_certified_radius,
    certified_accuracy,
    label_probabilities,
    worker_hours,
)
from results.analysis.simultaneous import CONFIDENCE, false_at_most, holding_together
from results.analysis.statistics import Interval, accuracy_interval, acr_interval, difference_interval, wilson
from results.bounds.radius import largest_radius
from results.printable import PER_INPUT, named_sigma
from results.report.caption import distinct, not_comparable
from results.report.legends import BASE, BEYOND_ACR, CONVERGENCE, ENVELOPE, INTERVALS, NOT_REACHED, SEEDS, SOFT
from results.report.subject import Subject
from results.report.table import Column, ResultTable, Row, rivals
from results.store.run import Run

FURTHER = (2.0, 2.25, 2.5, 3.0, 3.5)
"""Radii beyond `RADII`, where a row has any accuracy there; up to 2.25 is what papers list for one σ."""
SHARES = (0.5, 0.9, 0.99, 0.999)
"""Of an image's noise samples: a column each, of how many images have more of their label."""
SEED = 0  # of the bootstrap and of the thinning; every table draws from generators of its own
Numbers = dict[published.Key, dict[str, float]]
Sizes = dict[published.Key, int]


def tables_of(run: Run | Subject, source: str | None = None) -> Iterable[ResultTable]:
    """The tables that a run has data for. Arguments and errors as for `table_certified_accuracy`."""
    subject = Subject.of(run)
    yield table_certified_accuracy(subject, source)
    if subject.run.certificates[CLEAN].notna().any():
        yield table_base_accuracy(subject)
    if envelopes(subject.groups):
        yield table_envelope(subject)
    if any(len(group.trials) > 1 for group in subject.groups):
        yield table_seeds(subject)
    if subject.run.trials["train_seconds"].notna().any():
        yield table_cost(subject, source)
    if subject.run.certificates["count_top"].notna().any():
        yield table_beyond_acr(subject)
    if can_compare_training(subject.run):
        yield table_convergence(subject)


def table_certified_accuracy(run: Run | Subject, source: str | None = None) -> ResultTable:
    """Certified accuracy (percent) and ACR of every method and σ, with intervals; several seeds are averaged.

    Args:
        run: with at least one finished trial.
        source: whose published numbers stand beside ours (`published.SOURCES`); the thesis's where not given. With a
            source given, its methods that the run lacks get rows of their own.

    Raises:
        ValueError: an unknown source; or as `certified_groups`.
    """
    reference, origin = published.reference(source or "thesis"), published.find_source(source or "thesis")
    sizes = published.image_counts(source or "thesis")
    subject = Subject.of(run)
    rows = [_accuracy_row(group, reference, sizes) for group in subject.groups]
    if source is not None:
        rows = sorted([*rows, *_published_alone(rows, reference)], key=lambda row: row.sigma)
    columns = [Column("acr", "ACR", 3, "max"), *_accuracy_columns(rows)]
    return ResultTable(
        "certified_accuracy",
        "Certified accuracy (%) and average certified radius (ACR)",
        columns,
        rows,
        subject.caption,
        [
            "As Table 5.1 of the thesis.",
            INTERVALS,
            *_false_sentences(subject.groups),
            *_limits(subject.groups, rows),
            *_published_sentence(rows, origin, origin.setting),
        ],
        [*origin.notes] if any(row.published for row in rows) else [],
    )


def table_base_accuracy(run: Run | Subject) -> ResultTable:
    """Accuracy of the base classifier without noise and on one noise sample of each image, beside the smoothed one's.

    Args:
        run: with at least one trial that was certified here; imported ones are left out.

    Raises:
        ValueError: as `certified_groups`.
    """
    subject, rows = Subject.of(run), []
    for group in subject.groups:
        if not has_base_answers(group.certificates):
            continue
        right = group.certificates.assign(radius=0.0)
        seeds, intervals = {}, {}
        for key, column in (("clean", CLEAN), ("noisy", NOISY)):
            seeds[key] = [100 * base_accuracy(own, column) for own in group.seeds]
            told = right.assign(correct=right[column] == right["label"])
            intervals[key] = _percent(accuracy_interval(told, 0))
        seeds["smoothed"] = [100 * certified_accuracy(own, 0) for own in group.seeds]
        intervals["smoothed"] = _percent(accuracy_interval(group.certificates, 0))
        rows.append(_row(group, seeds, intervals, {}, {}))
    columns = [
        Column("clean", "without noise", 1, "max", "%"),
        Column("noisy", "one sample", 1, "max", "%", "on one noise sample"),
        Column("smoothed", "smoothed", 1, "max", "%"),
    ]
    return ResultTable(
        "base_accuracy",
        "Accuracy of the base classifier",
        columns,
        rows,
        subject.caption,
        [BASE, "Intervals: 95\u00a0%, for the uncertainty of the test images (Wilson)."],
        warnings=suspicions(subject.run.certificates),
    )


def table_envelope(run: Run | Subject) -> ResultTable:
    """The best of several σ: certified accuracy (percent) of each method at each radius, and which σ has it.

    Args:
        run: with a method that was certified at several σ in the same way.

    Raises:
        ValueError: as `certified_groups`.
    """
    radii = (0.0, *RADII, *FURTHER)
    subject, rows = Subject.of(run), []
    for found in envelopes(subject.groups):
        best = [values.tolist() for values in found.best(radii)]
        at = {f"r{radius:.2f}": (100 * share, sigma) for radius, share, sigma in zip(radii, *best, strict=True)}
        rows.append(
            Row(
                0.0,
                found.method,
                found.title,
                {key: share for key, (share, _) in at.items()},
                best_sigmas={key: sigma for key, (share, sigma) in at.items() if share > 0},
                sigmas=found.sigmas,
                setting=(*setting_of(found.groups[0], *SAME), found.sigmas),
            )
        )
    title = "The best of several σ: certified accuracy (%)"
    return ResultTable("best_of_sigma", title, _accuracy_columns(rows), rows, subject.caption, [ENVELOPE])


def _accuracy_columns(rows: list[Row]) -> list[Column]:
    """Of certified accuracy at 0, at each of `RADII`, and at those of `FURTHER` at which a row has any."""
    columns = [Column("r0.00", "ACC", 1, "max")]
    columns += [Column(f"r{radius:.2f}", f"{radius:.2f}", 1, "max", alone=f"ACC {radius:.2f}") for radius in RADII]
    columns += [
        Column(f"r{radius:.2f}", f"{radius:.2f}", 1, "max", alone=f"ACC {radius:.2f}", on_terminal=False)
        for radius in _further(rows)
    ]
    return columns


def _further(rows: list[Row]) -> list[float]:
    """Those of `FURTHER` at which a row has any accuracy, measured or published."""
    return [
        radius
        for radius in FURTHER
        if any(numbers.get(f"r{radius:.2f}", 0.0) > 0 for row in rows for numbers in (row.measured, row.published))
    ]


def table_seeds(run: Run | Subject) -> ResultTable:
    """How far ACR, certified accuracy and the radii of single images move between seeds.

    Args:
        run: with a method that has several seeds at one σ.

    Raises:
        ValueError: as `certified_groups`.
    """
    subject, rows = Subject.of(run), []
    for group in subject.groups:
        if len(group.seeds) < 2:
            continue
        measured = {"seeds": float(len(group.seeds))} | _spread_of_radii(group)
        for key, values in _of_each_seed(group).items():
            measured |= {f"{key}_lowest": min(values), f"{key}_highest": max(values)}
        title = f"{group.title}, certification seeds" if group.of_certification else group.title
        rows.append(Row(group.sigma, group.method, title, measured, setting=setting_of(group, *SAME)))
    columns = [
        Column("seeds", "seeds", 0),
        Column("acr_lowest", "ACR lowest", 3),
        Column("acr_highest", "highest", 3, alone="ACR highest"),
        Column("r0.00_lowest", "ACC lowest", 1),
        Column("r0.00_highest", "highest", 1, alone="ACC highest"),
        Column("median_spread", "median spread", 3),
        Column("largest_spread", "largest", 3, alone="largest spread"),
        Column("by_some_percent", "by some", 1, unit="%"),
    ]
    for radius in RADII[1::2]:  # of half a unit: a sheet of paper has no room for more
        key = f"r{radius:.2f}"
        if any(row.measured[f"{key}_highest"] > 0 for row in rows):
            columns += [
                Column(f"{key}_{end}", f"ACC {radius:.2f} {end}", 1, on_terminal=False) for end in ("lowest", "highest")
            ]
    title = "How far certificates move between seeds"
    return ResultTable("seeds", title, columns, rows, subject.caption, [SEEDS])


def _of_each_seed(group: Group) -> dict[str, list[float]]:
    """ACR, and certified accuracy (percent) at each radius."""
    found = {"acr": [average_certified_radius(rows) for rows in group.seeds]}
    for radius in (0.0, *RADII):
        found[f"r{radius:.2f}"] = [100 * certified_accuracy(rows, radius) for rows in group.seeds]
    return found


def _spread_of_radii(group: Group) -> dict[str, float]:
    by_image = group.certificates.groupby("index")
    seeds = by_image["correct"].agg(["sum", "size"])
    always, never = seeds["sum"] == seeds["size"], seeds["sum"] == 0
    spread = (by_image["radius"].max() - by_image["radius"].min())[always]
    found = {"by_some_percent": 100 * float((~always & ~never).mean())}
    if len(spread):
        found |= {"median_spread": float(spread.median()), "largest_spread": float(spread.max())}
    return found


def table_cost(run: Run | Subject, source: str | None = None) -> ResultTable:
    """ACR, accuracy and what training and certification cost, at σ = .25 or the smallest σ of the run; of the models
    that were trained in it.

    Args:
        run: with at least one trial that was trained in it.
        source: whose published ACR and accuracy stand beside ours; the thesis's, with its costs, where not given.

    Raises:
        ValueError: an unknown source; or as `certified_groups`.
    """
    subject = _trained_here(Subject.of(run))
    trials = subject.run.trials
    sigma = 0.25 if (trials["sigma"] == 0.25).any() else trials["sigma"].min()
    origin, reference = published.find_source(source or "thesis"), published.costs(source or "thesis")
    sizes = published.image_counts(source or "thesis")
    groups = in_order(subject.groups, trials, published.COST_ORDER)
    rows = [_cost_row(group, reference, sizes) for group in groups if group.sigma == sigma]
    columns = _cost_columns(trials, rows)
    of_thesis = origin.short == "thesis"
    return ResultTable(
        "cost",
        f"Cost of training and certification at {named_sigma(sigma)}",
        columns,
        rows,
        subject.caption,
        [
            "As Table 5.2 of the thesis.",
            *_cost_sentences(trials, columns),
            INTERVALS,
            *_false_sentences(groups),
            *_published_sentence(rows, origin, "Table 5.2" if of_thesis else origin.setting),
        ],
        list(published.COST_NOTES) if of_thesis and any(row.published for row in rows) else [],
    )


def table_beyond_acr(run: Run | Subject) -> ResultTable:
    """ACR with fewer samples and the ranking at each budget, and how probable the right class is: ACR alone can be
    raised on easy images at the cost of the others (Sun et al. 2025).

    Args:
        run: with at least one trial whose counts are known; those imported from logs are left out.

    Raises:
        ValueError: as `certified_groups`.
    """
    subject = Subject.of(run)
    groups = [group for group in subject.groups if group.certificates["count_top"].notna().all()]
    own = {int(n) for group in groups for n in group.trials["n"]}
    budgets = sorted(own | {n for n in BUDGETS if n < max(own)})
    columns = []
    for n in budgets:
        at = f"n\u00a0=\u00a0{_grouped(n)}"
        columns += [Column(f"acr_{n}", f"ACR {at}", 3, "max"), Column(f"rank_{n}", "rank", 0, alone=f"rank {at}")]
    columns.append(Column("together", "all hold", 3, "max", alone="ACR, all hold", on_terminal=False))
    columns.append(Column("two_sided", "two sided", 3, "max", alone="two-sided ACR"))
    soft = any(group.certificates["radius_soft"].notna().any() for group in groups)
    if soft:
        columns.append(Column("soft", "soft", 3, "max", alone="ACR, soft classifier"))
    columns += [Column(f"above_{share}", f"p_A\u00a0>\u00a0{share:g}", 1, "max", "%") for share in SHARES]
    rows = [
        Row(
            group.sigma,
            group.method,
            group.title,
            _budgets(group, budgets)
            | {"together": _acr_together(group)}
            | _two_sided_acr(group)
            | _soft_acr(group)
            | _probable(group),
            setting=setting_of(group, *SAME),
            settings={f"acr_{n}": setting_of(group, *(name for name in SAME if name != "n")) for n in budgets},
        )
        for group in groups
    ]
    _rank(rows, budgets)
    title = "Beyond ACR: smaller budgets, and how many images the right class is probable on"
    return ResultTable(
        "beyond_acr",
        title,
        columns,
        rows,
        subject.caption,
        [BEYOND_ACR, *([SOFT] if soft else []), *_false_sentences(groups)],
    )


def can_compare_training(run: Run) -> bool:
    """Whether several rows at one σ were trained in the run, so that one may be said to converge faster."""
    trained = run.trials[run.trials["trial_id"].isin(run.epochs["trial_id"])]
    rows = trained.drop_duplicates(["sigma", "dataset", "method"])
    return bool(rows.duplicated(["sigma", "dataset"]).any())


def table_convergence(run: Run | Subject) -> ResultTable:
    """How fast training converges: epochs to a level of accuracy that the rows at a σ have in common.

    Args:
        run: with at least two rows at one σ that were trained in it.

    Raises:
        ValueError: as `certified_groups`.
    """
    subject, rows = Subject.of(run), []
    for (sigma, dataset), groups in _trained_together(subject.groups, subject.run.epochs).items():
        level = common_level([epochs for _, epochs in groups])
        for group, epochs in groups:
            seeds = {
                "final_percent": [100 * accuracy for accuracy in final_accuracies(epochs)],
                "epochs": [float(count) for count in epochs.groupby("trial_id", sort=False).size()],
            }
            reached = epochs_to_level(epochs, level)
            if None not in reached:
                seeds["epochs_to_level"] = [float(epoch) for epoch in reached if epoch is not None]
            measured = {key: sum(values) / len(values) for key, values in seeds.items()}
            measured["level_percent"] = 100 * level
            several = seeds if len(reached) > 1 else {}
            rows.append(Row(sigma, group.method, group.title, measured, seeds=several, setting=(dataset,)))
    columns = [
        Column("final_percent", "final accuracy", 1, "max", "%"),
        Column("epochs", "epochs", 0),
        Column("level_percent", "level", 1, "", "%"),
        Column("epochs_to_level", "epochs to level", int(any(row.seeds for row in rows)), "min", absent=NOT_REACHED),
    ]
    title = f"Convergence: epochs to {LEVEL:.0%} of the best final accuracy".replace("%", "\u00a0%")
    return ResultTable("convergence", title, columns, rows, subject.caption, [CONVERGENCE])


def _trained_together(
    groups: list[Group], epochs: pd.DataFrame
) -> dict[tuple[float, str], list[tuple[Group, pd.DataFrame]]]:
    """The groups that were trained in the run, each with its own trials' epochs, by σ and data."""
    found: dict[tuple[float, str], list[tuple[Group, pd.DataFrame]]] = {}
    for group in groups:
        own = epochs[epochs["trial_id"].isin(group.trials["trial_id"])]
        if len(own):
            found.setdefault((group.sigma, group.trials["dataset"].iloc[0]), []).append((group, own))
    return found


def _published_alone(rows: list[Row], reference: Numbers) -> list[Row]:
    """Rows of the published numbers of methods that the run lacks, at those of its σ where the data is theirs."""
    measured = {(row.sigma, row.method) for row in rows}
    sigmas = {row.sigma for row in rows if row.of_published_data}
    return [
        Row(sigma, method, f"{method} (published)", {}, numbers)
        for (sigma, method), numbers in reference.items()
        if sigma in sigmas and (sigma, method) not in measured
    ]


def _trained_here(subject: Subject) -> Subject:
    """Without trials whose models were trained elsewhere: nobody knows what those cost."""
    run, known = subject.run, subject.run.trials["train_seconds"].notna()
    if known.all():
        return subject
    rows = run.certificates["trial_id"].isin(run.trials["trial_id"][known])
    return Subject(replace(run, trials=run.trials[known], certificates=run.certificates[rows]))


def _cost_columns(trials: pd.DataFrame, rows: list[Row]) -> list[Column]:
    """Those of which a row has a number, measured or published."""
    columns = [
        Column("acr", "ACR", 3, "max"),
        Column("accuracy_percent", "ACC", 1, "max", "%"),
        Column("memory_gb", "Memory", None, "min", "GB"),
        Column("member_memory_gb", "one member", None, "", "GB", "Memory of one member"),
        Column("parameters_millions", "Parameters", None, "min", "million", on_terminal=False),
        Column("model_mb", "Weights", None, "min", "MB", on_terminal=False),
        Column("runtime_hours", "Runtime", None, "min", "h"),
        Column("certify_hours", "Certification", None, "", "h", on_terminal=False),
        Column("train_rate", "train", None, "max", "/s"),
        Column("certify_rate", "certify", None, "max", "/s"),
        Column("worker_hours", _hours(trials), None, "min"),
        Column("energy_kwh", "Energy", None, "min", "kWh"),
    ]
    return [column for column in columns if any(column.key in row.measured | row.published for row in rows)]


def _cost_sentences(trials: pd.DataFrame, columns: list[Column]) -> list[str]:
    """What the columns of costs are, and of whom."""
    kinds = {
        "accelerator": "peak that torch allocated on accelerators (what it reserved and what the driver counts, which "
        "is more, is in training.json)",
        "resident": "peak resident memory of the training processes, which includes the libraries they load",
    }
    memory = " and ".join(kinds[kind] for kind in trials["memory_kind"].dropna().unique()) or "of an unknown kind"
    workers = distinct(trials["workers"])
    sentences = [
        f"Memory: {memory}, summed over {workers} worker{'' if workers == '1' else 's'} and an ensemble's members.",
        *_size_sentence(columns),
        "Runtime: training, wall clock, with the evaluation after each epoch. Certification: the seconds of all "
        "certificates added up, so the hours that one device would take for all test images; fewer where more of them "
        "are misclassified, for which nothing is estimated.",
        "Train and certify: noise samples per second, of all workers in training, where passes of an attack and of "
        "clean images are not counted, and of one in certification.",
        f"{_hours(trials)}: training and certification, summed over workers.",
    ]
    if any(column.key == "energy_kwh" for column in columns):
        sentences.append(
            "Energy: training and certification, by the accelerators' own counters, whatever else used them."
        )
    return sentences


def _size_sentence(columns: list[Column]) -> list[str]:
    if not any(column.key == "parameters_millions" for column in columns):
        return []
    return [
        "Parameters: the numbers that training changes; Weights: the files of the model, with what is fixed, such as a "
        "decomposition's basis; both summed over an ensemble's members."
    ]


def _hours(trials: pd.DataFrame) -> str:
    return "Accelerator hours" if (trials["memory_kind"] == "accelerator").all() else "Worker hours"


def _rank(rows: list[Row], budgets: list[int]) -> None:
    """Give each row that has an ACR at a budget its rank there, 1 for the largest, among those that compare with it."""
    for n in budgets:
        for row in (row for row in rows if f"acr_{n}" in row.measured):
            acrs = [other.measured[f"acr_{n}"] for other in rivals(rows, row, f"acr_{n}")]
            row.measured[f"rank_{n}"] = 1 + sum(acr > row.measured[f"acr_{n}"] for acr in acrs)


def _accuracy_row(group: Group, reference: Numbers, sizes: Sizes) -> Row:
    quantities: dict[str, Callable[[pd.DataFrame], float]] = {"acr": average_certified_radius}
    intervals = {"acr": acr_interval(group.certificates, np.random.default_rng(SEED))}
    limit = _limit(group)
    for radius in (0.0, *RADII, *FURTHER):
        key = f"r{radius:.2f}"
        quantities[key] = lambda rows, radius=radius: 100 * certified_accuracy(rows, radius)  # type: ignore[misc]
        intervals[key] = _percent(accuracy_interval(group.certificates, radius))
        if radius > limit and group.certificates["radius"].max() < radius:
            intervals[key] = Interval(0.0, 0.0)  # no image whatever could be certified with this n
    seeds = {key: [measure(rows) for rows in group.seeds] for key, measure in quantities.items()}
    return _row(group, seeds, intervals, reference, sizes)


def _cost_row(group: Group, reference: Numbers, sizes: Sizes) -> Row:
    trials = group.trials
    costs = {
        "memory_gb": trials["memory_bytes"] / 1e9,
        "runtime_hours": trials["train_seconds"] / 3600,
        "train_rate": trials["train_samples_per_second"],
        "certify_rate": trials["certify_samples_per_second"],
        "worker_hours": worker_hours(trials),
        "certify_hours": trials["certify_seconds"] / 3600,
    }
    if trials[["parameters", "model_bytes"]].notna().all(axis=None):
        costs["parameters_millions"] = trials["parameters"] / 1e6
        costs["model_mb"] = trials["model_bytes"] / 1e6
    if (trials["memory_bytes"] > trials["member_memory_bytes"]).any():
        costs["member_memory_gb"] = trials["member_memory_bytes"] / 1e9
    if trials["train_joules"].notna().all() and trials["certify_joules"].notna().all():
        costs["energy_kwh"] = (trials["train_joules"] + trials["certify_joules"]) / 3.6e6
    seeds = {key: [float(value) for value in values] for key, values in costs.items()}
    seeds["acr"] = [average_certified_radius(rows) for rows in group.seeds]
    seeds["accuracy_percent"] = [100 * certified_accuracy(rows, 0) for rows in group.seeds]
    intervals = {
        "acr": acr_interval(group.certificates, np.random.default_rng(SEED)),
        "accuracy_percent": _percent(accuracy_interval(group.certificates, 0)),
    }
    return _row(group, seeds, intervals, reference, sizes)


def _row(
    group: Group,
    seeds: dict[str, list[float]],
    intervals: dict[str, Interval],
    reference: Numbers,
    sizes: Sizes,
) -> Row:
    measured = {key: sum(values) / len(values) for key, values in seeds.items()}
    several = seeds if len(group.trials) > 1 else {}
    numbers = group.published_among(reference)
    theirs, ours = sizes.get((group.sigma, group.method), 0), group.certificates["index"].nunique()
    differences = {}
    same_data = bool(of_published_data(group.trials).all())
    if same_data:
        differences = {
            key: difference_interval(
                measured[key],
                intervals[key],
                number,
                _published_interval(key, number, theirs, measured, intervals, ours),
            )
            for key, number in numbers.items()
            if key in intervals
        }
    return Row(
        group.sigma,
        group.method,
        group.title,
        measured,
        published=numbers,
        intervals=intervals,
        seeds=several,
        of_certification=group.of_certification,
        setting=setting_of(group, *SAME),
        difference_intervals=differences,
        published_images=theirs,
        of_published_data=same_data,
        apart=tuple(not_comparable(group.trials)),
    )


def _published_interval(
    key: str, number: float, images: int, measured: dict[str, float], intervals: dict[str, Interval], own_images: int
) -> Interval:
    """95 % interval of a published number for the uncertainty of its own test images. Accuracy (percent): Wilson. Of an
    ACR only the mean is published: its images are taken to spread as ours."""
    if key != "acr":
        lower, upper = wilson(number / 100 * images, images)
        return _percent(Interval(float(lower), float(upper)))
    scale, own = np.sqrt(own_images / images), intervals[key]
    return Interval(number - scale * (measured[key] - own.lower), number + scale * (own.upper - measured[key]))


def _budgets(group: Group, budgets: list[int]) -> dict[str, float]:
    generator = np.random.default_rng(SEED)
    found = {}
    for n in budgets:
        own = group.trials["n"].min()  # of all its trials
        thinnable = group.sigma > PER_INPUT and (group.certificates["estimator"] != "anytime").all()
        if n == own or (n < own < MOST and thinnable):
            thinned = [
                at_budget(rows, n, generator, trials=group.trials) if (rows["n"] > n).any() else rows
                for rows in group.seeds
            ]
            found[f"acr_{n}"] = sum(average_certified_radius(rows) for rows in thinned) / len(thinned)
    return found


def _acr_together(group: Group) -> float:
    """Of certificates that hold all at once; the mean over the seeds."""
    return sum(average_certified_radius(holding_together(rows, group.trials)) for rows in group.seeds) / len(
        group.seeds
    )


def _false_sentences(groups: list[Group]) -> list[str]:
    """How many certificates of a row may be false, for each number of images and alpha that the table has."""
    sentences = []
    for images, alpha in sorted(
        {(len(rows), float(rows["alpha"].iloc[0])) for group in groups for rows in group.seeds}
    ):
        number = false_at_most(images, alpha)
        share = f"{100 * number / images:.2g} point"
        sentences.append(
            f"A certificate is false with probability {alpha:g} at most: of {_grouped(images)}, no more than {number} "
            f"with {CONFIDENCE:.0%} confidence, {share if share == '1 point' else share + 's'} of certified "
            "accuracy.".replace("%", "\u00a0%")
        )
    return sentences


def _soft_acr(group: Group) -> dict[str, float]:
    """As `_two_sided_acr`, of the expected softmax, where it was asked for."""
    rows = group.certificates
    if rows["radius_soft"].isna().all():
        return {}
    return {"soft": float(rows["radius_soft"].where(rows["selected"] == rows["label"]).fillna(0.0).mean())}


def _two_sided_acr(group: Group) -> dict[str, float]:
    """The mean over all images, where a radius that is unknown or of another class than the label counts as 0; none
    where no estimation can have one."""
    rows = group.certificates
    if group.sigma == PER_INPUT or (rows["estimator"] == "anytime").all():
        return {}
    return {"two_sided": float(rows["radius_two_sided"].where(rows["selected"] == rows["label"]).fillna(0.0).mean())}


def _probable(group: Group) -> dict[str, float]:
    """The percentage of images whose p_A is above each of SHARES."""
    p_a = label_probabilities(group.certificates)
    return {f"above_{share}": 100 * float((p_a > share).mean()) for share in SHARES}


def _percent(interval: Interval) -> Interval:
    return Interval(100 * interval.lower, 100 * interval.upper)


def _limits(groups: list[Group], rows: list[Row]) -> list[str]:
    """Why columns are empty that no method could fill. Not said of a σ with a log whose radii are above their limit."""
    limits: dict[float, float] = {}
    for group in groups:
        limit = _limit(group)
        if group.certificates["radius"].max() > limit * (1 + 1e-9):
            limit = np.inf
        limits[group.sigma] = max(limit, limits.get(group.sigma, 0.0))
    last = max((*RADII, *_further(rows)))
    short = [f"{limit:.3f} at {named_sigma(sigma)}" for sigma, limit in sorted(limits.items()) if limit < last]
    if not short:
        return []
    return [
        f"No radius can be above σ Φ⁻¹(alpha^(1/n)), which is {' and '.join(short)}: beyond it all is 0, whatever the "
        "method, and so is the interval."
    ]


def _limit(group: Group) -> float:
    """The largest radius that the group's n can certify; not known where σ is per input."""
    if group.sigma == PER_INPUT:
        return np.inf
    return float(largest_radius(group.trials["n"], group.trials["alpha"], group.sigma).max())


def _published_sentence(rows: list[Row], origin: published.Source, where: str) -> list[str]:
    if not any(row.of_published_data for row in rows):
        return ["No published numbers stand here: they are of CIFAR-10."]
    if not any(row.published for row in rows):
        return [f"Published: {origin.short} has no number of these methods and σ."]
    mark = ""
    if any(row.is_outside(key) for row in rows for key in row.published):
        sizes: dict[int, list[str]] = {}
        for row in rows:
            if row.difference_intervals and row.title not in sizes.setdefault(row.published_images, []):
                sizes[row.published_images].append(row.title)
        theirs = " and ".join(f"{_grouped(size)} ({', '.join(titles)})" for size, titles in sorted(sizes.items()))
        mark = (
            " † marks a number that differs from ours by more than the test images of both explain: the 95 % interval "
            "of the difference leaves out 0 (accuracy: Newcombe's hybrid score; ACR: with the spread of our images for "
            "theirs). Chance alone marks one in twenty where the images of both are drawn apart, and fewer where they "
            f"are the same; chance in training is not in it. Published test images: {theirs}; "
            f"{_grouped(published.ASSUMED_IMAGES)} are assumed where a source does not say."
        )
    if any(row.apart for row in rows if row.published):
        mark = f" Ours is another setting, so no difference from them is marked.{mark}"
    return [f"Published: {origin.short}; {where}.{mark}"]


def _grouped(value: int) -> str:
    return f"{value:,}".replace(",", "\u00a0")
