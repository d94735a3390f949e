"""Commands that measure speed beside a plain PyTorch loop: `bench perf certify`, `perf train`."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any

import typer

from bench.cli.base import Group, JsonOption, UserError, app, console, log_to_terminal, short, user_errors
from results.report.terminal import Heading, Sheet

perf_app = typer.Typer(cls=Group, no_args_is_help=True, help="Speed, beside a plain PyTorch loop.")
app.add_typer(perf_app, name="perf")

RoundsOption = Annotated[int, typer.Option(min=1, help="Each contestant runs once per round; medians are given.")]


@perf_app.command("certify")
def perf_certify(
    model: Annotated[
        str,
        typer.Option(
            help="resnet110 or another of ours, untrained; RUN/TRIAL; or one off the shelf, such as "
            "torchvision:resnet50@weights=random."
        ),
    ] = "resnet110",
    sigma: Annotated[
        float | None,
        typer.Option(help="Standard deviation of the noise, pixels in [0, 1]; that of the training, or .25."),
    ] = None,
    rounds: RoundsOption = 3,
    images: Annotated[int, typer.Option(min=1, help="Test images to compare bf16 with fp32 (RUN/TRIAL).")] = 100,
    as_json: JsonOption = False,
) -> None:
    """Certification beside a plain loop written from CERTIFY: same model, same machine, one run."""
    from bench.models.shelf import is_on_shelf, shelf_name
    from bench.models.sources import named_trial
    from bench.settings.registries import check_network

    with user_errors():
        if is_on_shelf(model):
            shelf_name(model)
        elif "/" in model:
            named_trial(model)
        else:
            check_network(model)
        if sigma is not None and not 0 < sigma < math.inf:
            raise UserError(f"--sigma {sigma:g}: must be above 0")
        # All of these are refused before torch is imported.
        from bench.audit.perf_certify import measure

        if not as_json:
            log_to_terminal()
        found = measure(model, sigma=sigma, rounds=rounds, images=images)
    _print_contest(found, "samples_per_second", as_json=as_json)


@perf_app.command("train")
def perf_train(
    model: Annotated[str, typer.Option(help="resnet20 or another of ours.")] = "resnet20",
    rounds: RoundsOption = 5,
    as_json: JsonOption = False,
) -> None:
    """Training beside a plain loop as published, with what bounds it: same model, same machine, one run."""
    from bench.settings.registries import check_network

    with user_errors():
        check_network(model)
        from bench.audit.perf_train import measure_training

        if not as_json:
            log_to_terminal()
        found = measure_training(model, rounds=rounds)
    _print_contest(found, "images_per_second", as_json=as_json)


def _print_contest(found: dict[str, Any], rates: str, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    single = {key: value for key, value in found.items() if not isinstance(value, dict)}
    console.print(Sheet([Heading(""), Heading("")], [[key, short(value)] for key, value in single.items()]))
    for key in (rates, "ratios"):
        rows = [[name, f"{value:.0f}" if value >= 100 else f"{value:.3g}"] for name, value in found[key].items()]
        console.print(f"\n{key.replace('_', ' ')}", Sheet([Heading(""), Heading("")], rows))
