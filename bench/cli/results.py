"""Commands about finished certificates: `bench report`, `audit`, `compare`, `import`, `published`.

They need no model, no data and no cluster.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.text import Text

from bench.cli.base import (
    RunArgument,
    UserError,
    app,
    console,
    errors,
    merge_and_report,
    merged_run,
    names,
    user_errors,
)
from results.bounds import ALPHA, N0, N
from results.printable import named_sigma
from results.report.terminal import Heading, Sheet
from results.store.folder import RunFolder, location

if TYPE_CHECKING:
    import pandas as pd

RunsArgument = Annotated[list[str], typer.Argument(help="Folders of runs, or URLs (s3://…).", metavar="RUN")]


@app.command()
def report(
    run: RunArgument,
    published: Annotated[
        str | None, typer.Option(help="Whose published numbers stand beside ours (bench published); the thesis's.")
    ] = None,
) -> None:
    """Merge the shards, then write tables, figures and report.html again."""
    with user_errors():
        merge_and_report(RunFolder(location(run)), published)


@app.command()
def audit(
    run: Annotated[str | None, typer.Argument(help="Folder of a run, such as runs/smoke.", metavar="RUN")] = None,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Break this program in many ways instead, and see that each is found.")
    ] = False,
) -> None:
    """Check a finished run from its files alone, by a program of its own: counts, bounds, radii, tables, digests."""
    from bench.audit.independent import AuditError
    from bench.audit.independent import audit as check

    with user_errors():
        if find_spec("flint") is None:
            raise UserError("bench audit needs python-flint: pip install 'smoothing-bench[audit]'")
        if (run is None) != self_test:
            raise UserError("bench audit: give a RUN, or --self-test without one")
        if run is None:
            _print_score()
            return
        folder = location(run)
        if not isinstance(folder, Path):
            raise UserError(f"{run}: bench audit reads folders of this machine: copy the run here first")
        try:
            found = check(folder)
        except AuditError as error:
            raise UserError(str(error)) from None
    counted = f" ({found['imported']} of them imported, without counts)" if found["imported"] else ""
    console.print(
        f"{found['rows']} certificates{counted} of {found['trials']} trials: counts, bounds, radii, images, weights "
        "and the table of certified accuracy follow from one another",
        highlight=False,
        soft_wrap=True,
    )


def _print_score() -> None:
    from tempfile import TemporaryDirectory

    from bench.audit.selftest import self_test

    with TemporaryDirectory() as folder:
        outcomes = list(self_test(Path(folder)))
    rows = [[each.name, each.by or "nobody", each.sentence.replace(folder, "…")] for each in outcomes]
    console.print(Sheet([Heading("broken", least=24), Heading("found by"), Heading("who says", least=24)], rows), "")
    found = sum(bool(each.by) for each in outcomes)
    console.print(f"mutation score: {found} of {len(outcomes)}", highlight=False)
    if found < len(outcomes):
        raise typer.Exit(1)


@app.command()
def compare(
    runs: RunsArgument,
    methods: Annotated[str | None, typer.Option(help="Only these rows of the tables, comma-separated.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON alone.")] = False,
) -> None:
    """Which methods differ, image by image: ACR by a sign-flip test with Holm's correction; McNemar at each radius."""
    with user_errors():
        for place in runs:
            merged_run(place)
        from results.analysis.comparison import METHOD
        from results.analysis.comparison import compare as compared
        from results.analysis.groups import SAME
        from results.store.run import read_run

        run = read_run(*runs)
        table = compared(run, names(methods))
    if as_json:
        same = _records(run.trials[["method", "sigma", "seed", *SAME]])
        typer.echo(json.dumps({"method": METHOD, "trials": same, "comparisons": _records(table)}, indent=2))
        return
    _print_comparison(table)
    console.print(
        METHOD + " Bold: below .05 after correction, of the primary endpoint alone.", style="italic", highlight=False
    )


@app.command("import")
def import_(
    log: Annotated[
        Path, typer.Argument(help="Tab-separated: idx label predict radius correct time.", metavar="LOG.tsv")
    ],
    method: Annotated[str, typer.Option(help="Row of the tables.")],
    sigma: Annotated[float, typer.Option(help="Noise of the certification.")],
    out: Annotated[str, typer.Option(help="Folder or URL of the run, new or existing.")],
    n: Annotated[int, typer.Option(help="Noise samples that estimated a probability.")] = N,
    n0: Annotated[int, typer.Option(help="Noise samples that selected the class.")] = N0,
    alpha: Annotated[float, typer.Option(help="Probability that a certificate is wrong.")] = ALPHA,
    seed: Annotated[int, typer.Option(help="Training seed, to tell logs of one method apart.")] = 0,
    dataset: Annotated[str, typer.Option(help="Name of the data in tables.")] = "cifar10",
    model: Annotated[str, typer.Option(help="Name of the network in tables.")] = "resnet110",
    skip: Annotated[int, typer.Option(help="Take only images whose index is a multiple of this.")] = 1,
) -> None:
    """Make another program's certification log a row of a run. n and alpha are what you state: a log does not say."""
    from results.store.logs import import_log, stated

    with user_errors():
        settings = stated(
            name=method, sigma=sigma, n=n, n0=n0, alpha=alpha, seed=seed, dataset=dataset, model=model, stride=skip
        )
        folder = RunFolder(location(out))
        for oddity in import_log(log, settings, folder):
            told = escape(f"{log.name}: {oddity}")
            errors.print(f"[yellow]warning:[/yellow] {told}", highlight=False, soft_wrap=True)
        merge_and_report(folder)


@app.command()
def published() -> None:
    """The published numbers that tables and figures can show, with their sources."""
    from results.analysis.published import SOURCES, count_models

    count = count_models()
    rows = [[name, f"{count[name]} models", source.citation, source.setting] for name, source in SOURCES.items()]
    headings = [Heading("source"), Heading("numbers of"), Heading("citation", least=16), Heading("setting", least=16)]
    console.print(Sheet(headings, rows))


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON has them: null for NaN."""
    rows: list[dict[str, Any]] = json.loads(table.to_json(orient="records", double_precision=15))
    return rows


def _print_comparison(table: pd.DataFrame) -> None:
    names_of_columns = ("", "A", "B", "A − B", "95 % interval", "only A", "only B", "effect", "p", "Holm")
    headings = [Heading(name, right=True) for name in names_of_columns]
    pairs = table.groupby(["sigma", "seed", "first", "second", "shared_models"], sort=False)
    for (_, seed, first, second, models), rows in pairs:
        shown_rows = []
        for row in rows.to_dict("records"):
            accuracy = row["quantity"] == "accuracy"
            digits, scale = (1, 100) if accuracy else (3, 1)
            shown = [f"{scale * row[key]:.{digits}f}" for key in ("first_value", "second_value", "difference")]
            interval = "–"
            if row["lower"] == row["lower"]:
                interval = f"{scale * row['lower']:.{digits}f}, {scale * row['upper']:.{digits}f}"
            only = [f"{row[key]:.0f}" if accuracy else "" for key in ("only_first", "only_second")]
            label = f"% at {row['radius']:.2f}" if accuracy else "ACR"
            effect = f"{row['effect']:+.2f}" if row["effect"] == row["effect"] else "–"
            p_values = (f"{row[key]:.2g}" if row[key] == row[key] else "–" for key in ("p_value", "p_holm"))
            style = "bold" * (row["p_holm"] < 0.05)
            cells = (label, *shown, interval, *only, effect, *p_values)
            shown_rows.append([Text(cell, style) for cell in cells])
        title = f"{named_sigma(rows['sigma'].iloc[0])}, seed {seed}: A = {first}, B = {second}"
        if models:
            title += f" (not independent; trained models that they share: {models})"
        console.print(title, style="bold", highlight=False)
        console.print(Sheet(headings, shown_rows, gap=1), "")
