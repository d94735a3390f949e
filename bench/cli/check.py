"""Commands that put a run's models to the test again: `bench verify`, `attack`."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.base import (
    PluginOption,
    RunArgument,
    UserError,
    app,
    console,
    merged_run,
    print_frame,
    print_warning,
    user_errors,
)
from results.report.terminal import Heading, Sheet

if TYPE_CHECKING:
    import pandas as pd

    from results.store.folder import RunFolder

FEW = 20
"""Rows of which identical ones are listed too."""

DataOption = Annotated[str | None, typer.Option(help="Where the images are now, if elsewhere than for the run.")]
FactoriesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        help="MODULE:FACTORY of rows that are not of our training; its code is run. Or where a file is now: onnx:FILE.",
    ),
]


@app.command()
def verify(
    run: RunArgument,
    images: Annotated[
        int,
        typer.Option(
            min=1,
            help="Rows, drawn from all trials; if 299 agree, at most 1 % of the run is wrong, with 95 % confidence.",
        ),
    ] = 299,
    data: DataOption = None,
    model: FactoriesOption = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Chooses the rows; by chance where not given, so that none is safe.")
    ] = None,
    plugin: PluginOption = None,
) -> None:
    """Certify random rows of a run again from the stored weights and compare the counts."""
    with user_errors():
        folder = _run_of_models(run, plugin, data)
        from bench.audit.verify import outcomes, verify_run

        seed = secrets.randbits(31) if seed is None else seed
        found = verify_run(folder, images, seed=seed, data=data, factories=model or ())
    listed = [verdict for verdict in found.verdicts if verdict.outcome != "identical"]
    if len(found.verdicts) <= FEW:
        listed = found.verdicts
    if listed:
        print_frame(outcomes(listed))
    console.print(f"{found.conclusion()} (--seed {seed})", highlight=False)
    for sentence in found.suspicions:
        print_warning(sentence)
    raise typer.Exit(0 if found.holds else 1)


@app.command()
def attack(
    run: RunArgument,
    images: Annotated[int, typer.Option(min=1, help="Test images of every trial.")] = 10,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the attack.")] = 20,
    samples: Annotated[int, typer.Option(min=1, help="Noise samples of a step.")] = 16,
    n: Annotated[int, typer.Option(min=1, help="Noise samples that judge the attacked image.")] = 1000,
    data: DataOption = None,
    model: FactoriesOption = None,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the images.")] = 0,
    plugin: PluginOption = None,
) -> None:
    """Attack the smoothed models (PGD over the noise): no certified image may fall inside its radius."""
    with user_errors():
        folder = _run_of_models(run, plugin, data)
        from bench.audit.attack import Attack, attack_run

        inside, accuracy, power = attack_run(
            folder, images, Attack(steps, samples, n), seed=seed, data=data, factories=model or ()
        )
    console.print("Accuracy (%) at a radius: certified, and empirical under the attack")
    print_frame(accuracy.round({"certified": 1, "empirical": 1}))
    if inside.empty:
        raise UserError("none of these images is certified, so no certificate was attacked: give more --images")
    fallen = inside[inside["fallen"]]
    console.print(f"{len(fallen)} of {len(inside)} certified images fell inside their radius", highlight=False)
    if len(fallen):
        print_frame(fallen)
    _print_power(power)
    raise typer.Exit(1 if len(fallen) else 0)


def _run_of_models(run: str, plugin: list[str] | None, data: str | None) -> RunFolder:
    """A merged run, whose models can be opened now; refused before torch is imported."""
    folder = merged_run(run)
    from bench.data import refuse_missing
    from bench.settings.plugins import load_plugins

    load_plugins(plugin or ())
    if data is not None:
        refuse_missing(data)
    return folder


def _print_power(power: pd.DataFrame) -> None:
    """What the attack would have found, had all radii been too large."""
    from results.analysis.statistics import wilson

    console.print(
        "What it would have found: the same images, attacked at a share of their radius beyond 1", highlight=False
    )
    rows = []
    for share, fell, attacked in power.itertuples(index=False, name=None):
        lower, upper = (100 * float(bound) for bound in wilson(fell, attacked))
        rows.append([f"{share:g}", f"{fell} of {attacked}", f"{lower:.1f} to {upper:.1f} %"])
    headings = [
        Heading("share of the radius"),
        Heading("fell", right=True),
        Heading("of each image (95 %)", right=True),
    ]
    console.print(Sheet(headings, rows))
