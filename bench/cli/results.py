"""Commands about finished certificates: `bench report`, `audit`, `compare`, `import`, `published`.

They need no model, no data and no cluster.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.text import Text

from bench.cli.base import (
    JsonOption,
    RunArgument,
    UserError,
    app,
    console,
    errors,
    merge_and_report,
    merged_run,
    names,
    print_warning,
    sentence_of,
    user_errors,
)
from results.bounds import ALPHA, N0, N
from results.errors import BenchError
from results.printable import named_sigma
from results.report.terminal import Heading, Sheet
from results.store.folder import RunFolder, location

if TYPE_CHECKING:
    import pandas as pd

    from results.store.settings import ImportedTrial

RunsArgument = Annotated[list[str], typer.Argument(help="Folders of runs, or URLs (s3://…).", metavar="RUN")]


@app.command()
def report(
    run: RunArgument,
    published: Annotated[
        str | None, typer.Option(help="Whose published numbers stand beside ours (bench published); the thesis's.")
    ] = None,
    places: Annotated[
        bool, typer.Option("--places", help="Say also where on this machine data, grid and program were.")
    ] = False,
) -> None:
    """Merge the shards, then write tables, figures and report.html again."""
    with user_errors():
        merge_and_report(RunFolder(location(run)), published, places=places)


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
            raise UserError("bench audit needs python-flint: pip install python-flint")
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
    seeded = "".join(
        f"; by their weights and the beacon {escape(beacon)} noise is seeded of {count} trial{'s' * (count > 1)}"
        for beacon, count in found["beacons"].items()
    )
    counted = f" ({found['imported']} of them imported, without counts)" if found["imported"] else ""
    console.print(
        f"{found['rows']} certificates{counted} of {found['trials']} trials: counts, bounds, radii, images, weights "
        f"and the table of certified accuracy follow from one another{seeded}",
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
    as_json: JsonOption = False,
) -> None:
    """Which methods differ, image by image: ACR by a sign-flip test with Holm's correction; McNemar at each radius."""
    with user_errors():
        for place in runs:
            merged_run(place)
        from results.analysis.comparison import METHOD
        from results.analysis.comparison import compare as compared
        from results.analysis.groups import SAME
        from results.analysis.seeds import METHOD as SEEDS_METHOD
        from results.analysis.seeds import compare_seeds
        from results.store.run import read_run

        run = read_run(*runs)
        table, over_seeds = compared(run, names(methods)), compare_seeds(run, names(methods))
    if as_json:
        same = _records(run.trials[["method", "sigma", "seed", *SAME]])
        seeds = {"method": SEEDS_METHOD, "comparisons": _records(over_seeds)}
        found = {"method": METHOD, "trials": same, "comparisons": _records(table), "over_seeds": seeds}
        typer.echo(json.dumps(found, indent=2))
        return
    _print_pairs(table, "seed", "seed {}", ("only A", "only B", "effect"), _only_and_effect)
    console.print(
        METHOD + " Bold: below .05 after correction, of the primary endpoint alone.", style="italic", highlight=False
    )
    if len(over_seeds):
        console.print("")
        _print_pairs(over_seeds, "seeds", "over {} seeds", ("sd seeds", "sd images"), _spreads)
        console.print(SEEDS_METHOD, style="italic", highlight=False)


@app.command("import")
def import_(
    log: Annotated[
        Path,
        typer.Argument(
            help="A log (idx label predict radius correct time), or a folder of them.", metavar="LOG|FOLDER"
        ),
    ],
    out: Annotated[str, typer.Option(help="Folder or URL of the run, new or existing.")],
    method: Annotated[str | None, typer.Option(help="Row of the tables; guessed where not given.")] = None,
    sigma: Annotated[
        float | None, typer.Option(help="Standard deviation of the noise, pixels in [0, 1]; guessed where not given.")
    ] = None,
    n: Annotated[int | None, typer.Option(help=f"Noise samples that estimated a probability; {N}.")] = None,
    n0: Annotated[int | None, typer.Option(help=f"Noise samples that selected the class; {N0}.")] = None,
    alpha: Annotated[float | None, typer.Option(help=f"Probability that a certificate is wrong; {ALPHA:g}.")] = None,
    seed: Annotated[int | None, typer.Option(help="Training seed, to tell logs of one method apart; 0.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Name of the data in tables; cifar10.")] = None,
    model: Annotated[str | None, typer.Option(help="Name of the network in tables; resnet110 on cifar10.")] = None,
    skip: Annotated[int, typer.Option(help="Take only images whose index is a multiple of this.")] = 1,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether what was guessed is right.")] = False,
) -> None:
    """Make other programs' certification logs rows of a run. n and alpha are what you state: a log does not say.

    What is not stated is guessed from the logs' paths, shown, and to be confirmed; what is stated is of all logs.
    """
    from results.store.logs import import_log, stated

    with user_errors():
        given = {"name": method, "sigma": sigma, "n": n, "n0": n0, "alpha": alpha, "seed": seed}
        given |= {"dataset": dataset, "model": model}
        own = {key: value for key, value in given.items() if value is not None} | {"stride": skip}
        stated(**({"name": "log", "sigma": 1.0} | own))  # refuses what is wrong before a file is opened
        folder = RunFolder(location(out))
        if not log.is_dir() and method is not None and sigma is not None:
            _tell_oddities(log, import_log(log, stated(**own), folder))
        else:
            _import_guessed(log, own, folder, yes=yes)
        merge_and_report(folder)


def _import_guessed(log: Path, own: dict[str, Any], folder: RunFolder, *, yes: bool) -> None:
    """Import the logs of a folder, or one, by what is stated and what their paths say.

    Raises:
        UserError: nobody has confirmed what was guessed; no log was imported.
    """
    from results.store.guess import find_logs, guessed, settings_of
    from results.store.logs import import_logs

    many = log.is_dir()
    root, paths = (log, find_logs(log)) if many else (log.parent, [log])
    wanted = []
    for path, found in zip(paths, guessed(paths, root), strict=True):
        with _refusals(many):
            wanted.append((path, settings_of(path, found, own)))
    if wanted:
        _print_guesses([(str(path.relative_to(root)), trial) for path, trial in wanted])
        if not yes:
            _ask(len(wanted), len(paths))
    imported = 0
    for outcome in import_logs(wanted, folder):
        with _refusals(many):
            if outcome.refused is not None:
                raise outcome.refused
            imported += 1
            _tell_oddities(outcome.log, outcome.oddities)
    console.print(f"{imported} of {len(paths)} files imported", highlight=False)
    if not imported:
        raise UserError(f"{log}: no log was imported")


@contextmanager
def _refusals(many: bool) -> Iterator[None]:
    """Of many logs, one that is refused gets a line, and the others go on."""
    try:
        yield
    except (BenchError, OSError) as error:
        if not many:
            raise
        sentence = " ".join(sentence_of(error).split())
        errors.print(f"[red]refused:[/red] {escape(sentence)}", highlight=False, soft_wrap=True)


def _ask(wanted: int, files: int) -> None:
    """Raises UserError where there is nobody to answer."""
    if not sys.stdin.isatty():
        whose = "path of 1 log says of it" if wanted == 1 else f"paths of {wanted} logs say of them"
        raise UserError(f"what the {whose} stands above: give --yes if it is right, or state what is not")
    if not typer.confirm(f"Import {wanted} of {files} file{'s' * (files > 1)} as above?"):
        raise typer.Exit(1)


def _print_guesses(wanted: list[tuple[str, ImportedTrial]]) -> None:
    """What each log is imported as; in a sentence, what is the same of all."""
    columns: dict[str, list[str]] = {"seed": [], "data": [], "network": [], "n": [], "n0": [], "alpha": []}
    for _, trial in wanted:
        certify = trial.certify
        values = (trial.seed, trial.dataset, trial.model, certify.n, certify.n0, f"{certify.alpha:g}")
        for column, value in zip(columns.values(), values, strict=True):
            column.append(str(value))
    shown = {name: values for name, values in columns.items() if len(set(values)) > 1}
    headings = [Heading("log", least=24), Heading("method", least=16), Heading("σ"), *map(Heading, shown)]
    rows = [
        [path, trial.name, f"{trial.sigma:g}", *(values[place] for values in shown.values())]
        for place, (path, trial) in enumerate(wanted)
    ]
    same = ", ".join(f"{name} {values[0]}" for name, values in columns.items() if name not in shown)
    console.print(Sheet(headings, rows), f"all of them: {same}" if same else "", "", sep="\n", highlight=False)


def _tell_oddities(log: Path, oddities: list[str]) -> None:
    for oddity in oddities:
        print_warning(f"{log.name}: {oddity}")


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


def _print_pairs(
    table: pd.DataFrame, by: str, said: str, columns: Sequence[str], cells: Callable[[Mapping[Any, Any]], list[str]]
) -> None:
    """A table of each pair of methods.

    Args:
        by: the column of which each value has tables of its own, as `said` in their titles.
        columns, cells: what only this comparison has.
    """
    names_of_columns = ("", "A", "B", "A − B", "95 % interval", *columns, "p", "Holm")
    headings = [Heading(name, right=True) for name in names_of_columns]
    pairs = table.groupby(["sigma", by, "first", "second", "shared_models"], sort=False)
    for (_, value, first, second, models), rows in pairs:
        shown_rows = []
        for row in rows.to_dict("records"):
            p_values = (f"{row[key]:.2g}" if row[key] == row[key] else "–" for key in ("p_value", "p_holm"))
            style = "bold" * (row["p_holm"] < 0.05)
            shown_rows.append([Text(cell, style) for cell in (*_compared(row), *cells(row), *p_values)])
        title = f"{named_sigma(rows['sigma'].iloc[0])}, {said.format(value)}: A = {first}, B = {second}"
        if models:
            title += f" (not independent; trained models that they share: {models})"
        console.print(title, style="bold", highlight=False)
        console.print(Sheet(headings, shown_rows, gap=1), "")


def _compared(row: Mapping[Any, Any]) -> tuple[str, ...]:
    """Of a line of `compare` or `compare_seeds`: what is compared, both values, their difference, and its interval."""
    digits, scale = _digits_and_scale(row)
    shown = [_decimal(row[key], digits, scale) for key in ("first_value", "second_value", "difference")]
    ends = ", ".join(_decimal(row[key], digits, scale) for key in ("lower", "upper"))
    label = f"% at {row['radius']:.2f}" if row["quantity"] == "accuracy" else "ACR"
    return label, *shown, ends if row["lower"] == row["lower"] else "–"


def _digits_and_scale(row: Mapping[Any, Any]) -> tuple[int, int]:
    return (1, 100) if row["quantity"] == "accuracy" else (3, 1)


def _decimal(value: float, digits: int, scale: int) -> str:
    return f"{scale * value:.{digits}f}"


def _only_and_effect(row: Mapping[Any, Any]) -> list[str]:
    accuracy = row["quantity"] == "accuracy"
    only = [f"{row[key]:.0f}" if accuracy else "" for key in ("only_first", "only_second")]
    return [*only, f"{row['effect']:+.2f}" if row["effect"] == row["effect"] else "–"]


def _spreads(row: Mapping[Any, Any]) -> list[str]:
    digits, scale = _digits_and_scale(row)
    return [_decimal(row[key], digits + 1, scale) for key in ("sd_seed", "sd_image")]
