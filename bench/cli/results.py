"""Commands about finished certificates: `bench report`, `compare`, `import`, `published`.

They need no model, no data and no cluster.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from bench.cli.base import RunArgument, app, console, errors, merge_and_report, names, user_errors
from results.folder import RunFolder

if TYPE_CHECKING:
    import pandas as pd

RunsArgument = Annotated[list[str], typer.Argument(help="Folders of runs, or URLs (s3://…).", metavar="RUN…")]


@app.command()
def report(
    run: RunArgument,
    published: Annotated[
        str | None, typer.Option(help="Whose published numbers stand beside ours (bench published); the thesis's.")
    ] = None,
) -> None:
    """Merge the shards, then write tables, figures and report.html again."""
    with user_errors():
        merge_and_report(RunFolder(run), published)


@app.command()
def compare(
    runs: RunsArgument,
    methods: Annotated[str | None, typer.Option(help="Only these rows of the tables, comma-separated.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON alone.")] = False,
) -> None:
    """Which methods differ, image by image: McNemar at each radius, a paired bootstrap for ACR, Holm's correction."""
    from results.compare import compare as compared
    from results.run import read_run

    with user_errors():
        table = compared(read_run(*runs), names(methods))
    if as_json:
        typer.echo(json.dumps(_records(table), indent=2))
        return
    _print_comparison(table)


@app.command("import")
def import_(
    log: Annotated[
        Path, typer.Argument(help="Tab-separated: idx label predict radius correct time.", metavar="LOG.tsv")
    ],
    method: Annotated[str, typer.Option(help="Row of the tables.")],
    sigma: Annotated[float, typer.Option(help="Noise of the certification.")],
    out: Annotated[Path, typer.Option(help="Folder of the run, new or existing.")],
    n: Annotated[int, typer.Option(help="Copies that estimated a probability.")] = 100_000,
    n0: Annotated[int, typer.Option(help="Copies that selected the class.")] = 100,
    alpha: Annotated[float, typer.Option(help="Probability that a certificate is wrong.")] = 0.001,
    seed: Annotated[int, typer.Option(help="Training seed, to tell logs of one method apart.")] = 0,
    dataset: Annotated[str, typer.Option(help="Name of the data in tables.")] = "cifar10",
    model: Annotated[str, typer.Option(help="Name of the network in tables.")] = "resnet110",
    skip: Annotated[int, typer.Option(help="Take only images whose index is a multiple of this.")] = 1,
) -> None:
    """Make another program's certification log a row of a run. n and alpha are what you state: a log does not say."""
    from results.logs import LogSettings, import_log

    with user_errors():
        settings = LogSettings(
            name=method, sigma=sigma, n=n, n0=n0, alpha=alpha, seed=seed, dataset=dataset, model=model, stride=skip
        )
        folder = RunFolder(out.expanduser().absolute())
        for oddity in import_log(log, settings, folder):
            errors.print(f"[yellow]warning:[/yellow] {log.name}: {oddity}", highlight=False, soft_wrap=True)
        merge_and_report(folder)


@app.command()
def published() -> None:
    """The published numbers that tables and figures can show, with their sources."""
    from results.published import SOURCES, numbers

    count = numbers().groupby("source").size()
    table = Table("source", "numbers of", "citation", "setting", box=None, pad_edge=False)
    for name, source in SOURCES.items():
        table.add_row(name, f"{count[name]} models", source.citation, source.setting)
    console.print(table)


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON has them: null for NaN."""
    rows: list[dict[str, Any]] = json.loads(table.to_json(orient="records", double_precision=15))
    return rows


def _print_comparison(table: pd.DataFrame) -> None:
    for (sigma, seed, first, second), rows in table.groupby(["sigma", "seed", "first", "second"], sort=False):
        grid = Table(box=None, pad_edge=False)
        for heading in ("", first, second, "difference", "95 % interval", "only one", "effect", "p", "p (Holm)"):
            grid.add_column(str(heading), justify="right")
        for row in rows.to_dict("records"):
            accuracy = row["quantity"] == "accuracy"
            digits, scale = (1, 100) if accuracy else (3, 1)
            shown = [f"{scale * row[key]:.{digits}f}" for key in ("first_value", "second_value", "difference")]
            interval = f"{scale * row['lower']:.{digits}f}, {scale * row['upper']:.{digits}f}"
            discordant = f"{row['only_first']:.0f} / {row['only_second']:.0f}" if accuracy else ""
            label = f"at {row['radius']:.2f}, %" if accuracy else "ACR"
            style = "bold" if row["p_holm"] < 0.05 else ""
            p_values = (f"{row['p_value']:.2g}", f"{row['p_holm']:.2g}")
            grid.add_row(label, *shown, interval, discordant, f"{row['effect']:+.2f}", *p_values, style=style)
        console.print(f"σ = {sigma:g}, seed {seed}: {first} − {second}", style="bold", highlight=False)
        console.print(grid, "")
    pairs = len(table.groupby(["sigma", "seed", "first", "second"]))
    console.print(
        "Accuracy: McNemar's exact test; only one: images that only the first or only the second certifies; effect: "
        "Cohen's g. ACR: studentised bootstrap; effect: Cohen's d. Intervals and p: uncertainty of the test images, "
        f"not of training. Holm: over the {pairs} pair{'s' * (pairs > 1)}, for each quantity. Bold: below .05.",
        style="italic",
        highlight=False,
    )
