"""The tables, the summary and the caveats of the page, formatted as in the other files of a report."""

from __future__ import annotations

import math

from results.analysis.base_classifier import suspicions
from results.analysis.comparison import Lead, leads
from results.printable import named_sigma, sigma_text
from results.report import formats
from results.report.caption import distinct, networks
from results.report.page.content import Best, Cell, Summary, TableContent
from results.report.subject import Subject
from results.report.table import Column, ResultTable, Row
from results.store.run import Run


def page_title(run: Run) -> str:
    """Networks and data of the run."""
    trials = run.planned if run.trials.empty else run.trials
    return f"{distinct(networks(trials))} on {distinct(trials['dataset'])}" if len(trials) else "No trial yet"


def table_content(table: ResultTable) -> TableContent:
    """A table with its cells as text, and the measured values to sort by."""
    return {
        "name": table.name,
        "title": table.title,
        "columns": [
            {"heading": column.heading, "unit": column.unit, "ascending": column.best == "min"}
            for column in table.columns
        ],
        "rows": [
            {
                "sigma": row.sigma,
                "sigmas": row.sigma_text,
                "title": row.title,
                "cells": [_cell(table, row, column) for column in table.columns],
            }
            for row in table.rows
        ],
        "caption": [*_legend(table), *table.caption, *(f"{formats.WARNING} {warning}" for warning in table.warnings)],
        "notes": table.notes,
    }


def verdict(found: list[Lead]) -> list[str]:
    """Who is best at each σ and by how much, in a sentence; in another, whether that is more than chance."""
    if not found:
        return []
    first = f"At {'; at '.join(map(_ahead, found))}".removesuffix(".") + "."
    told = [lead for lead in found if lead.next is not None]
    if not told:
        return [first]
    images = " or ".join(
        _grouped(count) for count in sorted({int(lead.best.trials["images"].iloc[0]) for lead in told})
    )
    several = [
        group for lead in told for group in (lead.best, lead.next) if group is not None and len(group.trials) > 1
    ]
    training = "means over the training seeds, whose spread is not in it"
    if all(group.of_certification for group in several):  # or there are none
        over = "means over certification seeds; " if several else ""
        training = f"{over}each was trained once, and another training seed may decide otherwise"
    chances = ", and at ".join(f"{named_sigma(lead.sigma)} that is {_chance(lead)}" for lead in told)
    return [
        first,
        f"At {chances}: paired permutation tests on {images} test images, corrected for all pairs of methods; "
        f"{training}.",
    ]


def _ahead(lead: Lead) -> str:
    at, title = named_sigma(lead.sigma), lead.best.title
    if lead.next is None:
        alone = "compares with no other" if lead.others else "is alone"
        return f"{at} {title} {alone}, with ACR {lead.acr:.3f}"
    interval = ""
    if lead.interval:
        lower, upper = (f"{end:.3f}".replace("-", "−") for end in (lead.interval.lower, lead.interval.upper))
        interval = f" (95\u00a0% interval {lower} to {upper})"
    aside = f" {_aside(lead)}" if lead.others else ""
    ahead = f"{lead.acr:.3f}{aside}: {lead.difference:.3f}{interval} above {lead.next.title}"
    return f"{at} {title} has the largest ACR, {ahead}"


def _aside(lead: Lead) -> str:
    return f"({lead.others} of another setting not counted)" if lead.others else ""


def _chance(lead: Lead) -> str:
    if math.isnan(lead.p_value):
        return "on too few images to tell it from chance"
    p_value = "p < 0.0001" if lead.p_value < 1e-4 else f"p = {lead.p_value:.2g}"
    return f"{'more than' if lead.p_value < 0.05 else 'no more than'} chance explains ({p_value})"


def _grouped(count: int) -> str:
    return f"{count:,}".replace(",", "\u00a0")


def summary(subject: Subject, tables: list[ResultTable]) -> Summary:
    """Who is best in two sentences, facts by name, and the largest ACR at each σ."""
    run = subject.run
    trials, certificates = run.trials, run.certificates
    if trials.empty:
        said = ["No trial is finished yet."]
        return {"title": page_title(run), "verdict": [], "facts": [], "best": [], "caption": said}
    found = leads(subject.groups)
    unfinished = f", {len(run.missing)} not finished" if run.missing else ""
    facts = {
        "Data": distinct(trials["dataset"]),
        "Network": distinct(networks(trials)),
        "Methods": str(trials["method"].nunique()),
        "σ": ", ".join(sigma_text(sigma) for sigma in sorted(trials["sigma"].unique())),
        "Test images": distinct(trials["images"]),
        "Noise samples n": distinct(trials["n"]),
        "alpha": distinct(trials["alpha"]),
        "Trials": f"{len(trials)} finished{unfinished}",
        "Trained on": " or ".join(
            filter(None, [distinct(trials["device"]), "elsewhere" if trials["device"].isna().any() else ""])
        ),
        "Certified on": distinct(certificates["device"]),
    }
    return {
        "title": page_title(run),
        "verdict": verdict(found),
        "facts": list(facts.items()),
        "best": _best(tables, found),
        "caption": subject.caption,
    }


def caveats(subject: Subject) -> list[str]:
    """What the numbers do not say."""
    run = subject.run
    if run.trials.empty:
        return []
    wrong = (run.trials["images"] * run.trials["alpha"]).max()
    sentences = [
        "Each certificate may be wrong with probability alpha, each on its own: of the images of one trial, at most "
        f"images · alpha are expected to be, here {wrong:.3g}.",
        "A radius is an ℓ2 distance, with pixel values in [0, 1]. It holds for the smoothed classifier, not for the "
        "network alone, and says nothing about other changes of an image.",
        "The intervals are for the uncertainty of the test images: what the numbers might be on other images of the "
        "same kind. They do not cover that of the training seed, which only several seeds show.",
        "ACR favours easy images: a large radius on a few of them outweighs many images without any (Sun et al. 2025). "
        "The curves and the distribution of p_A show what it hides. It also grows with n.",
    ]
    if (run.certificates["estimator"] == "imported").any():
        sentences.append(
            "Imported certificates are of other programs' logs: their radii are rounded, their counts unknown, and "
            "their n and alpha are as stated for them."
        )
    return [*sentences, *suspicions(run.certificates), *subject.caption]


def _cell(table: ResultTable, row: Row, column: Column) -> Cell:
    value = row.measured.get(column.key, math.nan)
    if math.isnan(value):
        return {"value": None, "text": column.absent, "published": formats.reference(row, column)}
    return {
        "value": value,
        "text": formats.number(value, column),
        "best": table.best(row, column),
        "spread": formats.spread(row, column),
        "seeds": [formats.number(seed, column) for seed in row.seeds.get(column.key, [])],
        "interval": formats.interval(row, column),
        "sigma": formats.best_sigma(row, column),
        "published": formats.reference(row, column),
    }


def _legend(table: ResultTable) -> list[str]:
    parts = ["its σ"] * any(row.best_sigmas for row in table.rows)
    parts += ["its 95 % interval"] * any(row.intervals for row in table.rows)
    parts += ["the published number and measured minus published"] * any(row.published for row in table.rows)
    below = [f"Below each number: {', then '.join(parts)}."] if parts else []
    spread = [
        f"After sd: the standard deviation over the {table.kind_of_seeds}, whose uncertainty the interval does not "
        "cover; open it for the number of each."
    ]
    return below + spread * any(row.seeds for row in table.rows)


def _best(tables: list[ResultTable], found: list[Lead]) -> list[Best]:
    """The rows that lead at each σ, of the first table that has ACR."""
    with_acr = [(table, column) for table in tables for column in table.columns if column.key == "acr"]
    if not with_acr:
        return []
    table, column = with_acr[0]
    rows = {(row.sigma, row.method): row for row in table.rows}
    ahead = [(rows[lead.sigma, lead.best.method], _aside(lead)) for lead in found]
    return [
        {
            "sigma": named_sigma(row.sigma),
            "title": row.title,
            "acr": formats.number(row.measured["acr"], column),
            "interval": formats.interval(row, column),
            "aside": aside,
        }
        for row, aside in ahead
    ]
