"""`bench doctor`: whether this machine, or a cluster, is fit for a run."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from bench.cli.base import JsonOption, UnauthenticatedOption, app, console, user_errors
from results.report.terminal import Heading, Sheet

if TYPE_CHECKING:
    from bench.audit.finding import Finding

COLOURS = {"right": "green", "wrong": "red", "slow": "yellow", "skipped": "dim"}


@app.command()
def doctor(
    data: Annotated[
        str | None, typer.Option(help="Images to look at, as bench run takes them; CIFAR-10, if it is there.")
    ] = None,
    address: Annotated[str | None, typer.Option(help="Also ask each node of a Ray cluster: auto or HOST:PORT.")] = None,
    allow_unauthenticated: UnauthenticatedOption = False,
    as_json: JsonOption = False,
) -> None:
    """What is right, wrong and slow on this machine, in two minutes at most; exit status 1 if something is wrong."""
    with user_errors():
        from bench.audit.doctor import examine_cluster, examine_machine

        if not as_json:
            console.print("looking at this machine, for two minutes at most …")
        found = examine_machine(data)
        if address:
            found = [*found, *examine_cluster(address, allow_unauthenticated=allow_unauthenticated)]
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in found], indent=2))
    else:
        _print(found)
    raise typer.Exit(1 if any(finding.verdict == "wrong" for finding in found) else 0)


def _print(found: list[Finding]) -> None:
    headings = [Heading(""), Heading("check", least=10), Heading("what was found, and what to do", least=30)]
    rows: list[list[str | Text]] = [
        [
            Text(finding.verdict, COLOURS[finding.verdict]),
            f"{finding.host}: {finding.name}" if finding.host else finding.name,
            f"{finding.sentence}\n→ {finding.remedy}" if finding.remedy else finding.sentence,
        ]
        for finding in found
    ]
    console.print(Sheet(headings, rows))
    counts = [(verdict, sum(finding.verdict == verdict for finding in found)) for verdict in COLOURS]
    console.print(", ".join(f"{count} {verdict}" for verdict, count in counts if count), highlight=False)
