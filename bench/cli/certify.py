"""Commands that certify any model, or answer with it: `bench certify`, `predict`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.base import (
    BeaconOption,
    JsonOption,
    PluginOption,
    ShardSizeOption,
    app,
    console,
    log_to_terminal,
    merge_and_report,
    print_frame,
    user_errors,
)
from bench.cli.models import Asked
from bench.cli.stopping import stopped_in_order
from results.bounds import ALPHA, N0, N
from results.store.folder import RunFolder, location

PREDICTED = 20
"""Images whose answers `bench predict` gives, where nobody says how many."""

ModelOption = Annotated[
    str | None,
    typer.Option(
        help="MODULE:FACTORY, a function that returns the model, its module (without .py) from the current folder or "
        "installed; RUN/TRIAL; timm:NAME, torchvision:NAME, hf:NAME or hf:FOLDER, onnx:FILE."
    ),
]
ClassifiersOption = Annotated[
    list[str] | None,
    typer.Option(
        "--classifier",
        help="In place of --model, given twice or more: MODEL@SIGMA, the classifiers among which an image gets its σ.",
    ),
]
SelectorOption = Annotated[
    str | None,
    typer.Option(help="MODEL@SIGMA that chooses; without it the first --classifier with a class above 1/2 answers."),
]
DenoiserOption = Annotated[
    str | None,
    typer.Option(
        help="Before the model: ddpm:FOLDER or ddpm:NAME; MODULE:FACTORY, a network from noisy to clean images."
    ),
]
DataOption = Annotated[
    str | None,
    typer.Option(
        help="A data set by name, a folder of images, or a URL; that of its training where --model is RUN/TRIAL."
    ),
]
SigmaOption = Annotated[
    float | None,
    typer.Option(
        help="Standard deviation of the noise, pixels in [0, 1] (.25, not 64); that of its training where not given."
    ),
]
PrecisionOption = Annotated[str, typer.Option(help="auto, fp32 or bf16.")]


@app.command()
def certify(
    model: ModelOption = None,
    classifier: ClassifiersOption = None,
    selector: SelectorOption = None,
    data: DataOption = None,
    sigma: SigmaOption = None,
    out: Annotated[str | None, typer.Option(help="Folder or URL of the run; runs/NAME where not given.")] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Row of the tables; the factory, the package's name or the trial's row where not given."),
    ] = None,
    n: Annotated[int, typer.Option(help="Noise samples that estimate a probability.")] = N,
    n0: Annotated[int, typer.Option(help="Noise samples that select the class.")] = N0,
    alpha: Annotated[float, typer.Option(help="At most this probability that a certificate is wrong.")] = ALPHA,
    images: Annotated[int | None, typer.Option(help="Evenly spaced test images; all where not given.")] = None,
    precision: PrecisionOption = "auto",
    estimator: Annotated[
        str, typer.Option(help="fixed (n samples); two-stage or anytime (what an image needs, at most n).")
    ] = "fixed",
    arithmetic: Annotated[
        str, typer.Option(help="float, or sound: certificates that hold in floating point, a little smaller.")
    ] = "float",
    soft: Annotated[bool, typer.Option("--soft", help="Certify the expected softmax too, another classifier.")] = False,
    beacon: BeaconOption = None,
    full: Annotated[bool, typer.Option("--full", help="Estimate also where the selected class is wrong.")] = False,
    seed: Annotated[int | None, typer.Option(help="Of the noise; that of its training, or 0.")] = None,
    shard_size: ShardSizeOption = 16,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Noise samples of a forward pass; as many as the model and memory take.")
    ] = None,
    denoiser: DenoiserOption = None,
    plugin: PluginOption = None,
) -> None:
    """Certify any model; also under `accelerate launch`, one process per GPU. The same command again goes on."""
    log_to_terminal()
    with stopped_in_order(), user_errors():
        from bench.data import dataset_name, resolve_data
        from bench.settings.plugins import load_plugins
        from results.store.description import check_room
        from results.store.lock import refuse_in_use

        chosen = {
            "n0": n0,
            "n": n,
            "alpha": alpha,
            "images": images,
            "precision": precision,
            "estimator": estimator,
            "arithmetic": arithmetic,
            "soft": soft,
            "skip_misclassified": not full,
            "beacon": beacon,
        }
        asked = Asked.of(model, classifier or [], selector, sigma, data, denoiser)
        asked.settings(name, seed, certify=chosen)  # refuses before a model is opened, which takes torch and own code
        load_plugins(plugin or ())
        asked.refuse_unsaid()
        if out is not None:
            check_room(RunFolder(location(out)))
            refuse_in_use(RunFolder(location(out)))
        opened = asked.opened()
        from bench.machine.processes import first_process_first
        from bench.runner.single import certify_source

        with first_process_first():  # which downloads the data, if it must
            place = resolve_data(opened.data)
        settings, source = opened.as_one(name, seed, certify=chosen, data=place, dataset=dataset_name(place))
        folder = RunFolder(location(out or Path("runs") / settings.name))
        if certify_source(source, settings, folder, shard_size, batch=batch):
            merge_and_report(folder)


@app.command()
def predict(
    model: ModelOption = None,
    classifier: ClassifiersOption = None,
    selector: SelectorOption = None,
    data: DataOption = None,
    sigma: SigmaOption = None,
    n: Annotated[int, typer.Option(min=1, help="Noise samples of an image.")] = 1000,
    alpha: Annotated[
        float, typer.Option(help="At most this probability that an answer is not the smoothed classifier's.")
    ] = ALPHA,
    images: Annotated[
        int | None, typer.Option(help=f"Evenly spaced test images; {PREDICTED}, or all of fewer, where not given.")
    ] = None,
    precision: PrecisionOption = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Of the noise.")] = 0,
    as_json: JsonOption = False,
    denoiser: DenoiserOption = None,
    plugin: PluginOption = None,
) -> None:
    """PREDICT on test images: the smoothed classifier's answers, or that it abstains."""
    with user_errors():
        chosen: dict[str, object] = {"precision": precision, "images": images}
        asked = Asked.of(model, classifier or [], selector, sigma, data, denoiser)
        asked.settings("model", seed, certify=chosen)  # as in `certify`
        from bench.data import load_images, resolve_data
        from bench.settings.plugins import load_plugins
        from results.bounds.prediction import check_prediction

        check_prediction(n, alpha)
        load_plugins(plugin or ())
        asked.refuse_unsaid()
        opened = asked.opened()
        from bench.audit.predict import predict_source

        test = load_images(resolve_data(opened.data), "test")
        if images is None:
            chosen["images"] = min(PREDICTED, len(test))
        settings, source = opened.as_one("model", seed, certify=chosen)
        found = predict_source(source, settings, test, n=n, alpha=alpha)
    shares = found.shares()
    if as_json:
        typer.echo(json.dumps({"rows": found.rows.to_dict("records"), **shares}, indent=2))
        return
    print_frame(found.rows)
    console.print("")
    for name, share in shares.items():
        console.print(f"{name.replace('_', ' ')}: {share:.1%}", highlight=False)
