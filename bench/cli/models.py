"""Commands about a trained model: `bench certify`, `verify`, `attack`, `perf`."""

from __future__ import annotations

import json
import logging
import math
import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from bench.cli.base import (
    BeaconOption,
    Group,
    PluginOption,
    RunArgument,
    UserError,
    app,
    console,
    merge_and_report,
    merged_run,
    print_warning,
    user_errors,
)
from bench.cli.stopping import stopped_in_order
from results.bounds import ALPHA, N0, N
from results.report.terminal import Heading, Sheet
from results.store.folder import RunFolder, location

if TYPE_CHECKING:
    import pandas as pd

    from bench.models.sources import Source
    from results.store.settings import ComposedTrial, ExternalTrial

Kind = TypeVar("Kind", "ExternalTrial", "ComposedTrial")
FEW = 20
"""Rows of which identical ones are listed too."""
PREDICTED = 20
"""Images whose answers `bench predict` gives, where nobody says how many."""

perf_app = typer.Typer(cls=Group, no_args_is_help=True, help="Speed, beside a plain PyTorch loop.")
app.add_typer(perf_app, name="perf")

MODEL_HELP = (
    "MODULE:FACTORY, a function that returns the model, its module (without .py) from the current folder or installed; "
    "RUN/TRIAL; timm:NAME, torchvision:NAME, hf:NAME or hf:FOLDER, onnx:FILE."
)
SIGMA_HELP = "Standard deviation of the noise, pixels in [0, 1] (.25, not 64); that of its training where not given."
DATA_HELP = "A data set by name, a folder of images, or a URL; that of its training where --model is RUN/TRIAL."
ModelOption = Annotated[str | None, typer.Option(help=MODEL_HELP)]
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
DataOption = Annotated[str | None, typer.Option(help="Where the images are now, if elsewhere than for the run.")]
FactoriesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        help="MODULE:FACTORY of rows that are not of our training; its code is run. Or where a file is now: onnx:FILE.",
    ),
]
SeedOption = Annotated[int, typer.Option(min=0, help="Chooses the images.")]


@app.command()
def certify(
    model: ModelOption = None,
    classifier: ClassifiersOption = None,
    selector: SelectorOption = None,
    data: Annotated[
        str | None,
        typer.Option(help=DATA_HELP),
    ] = None,
    sigma: Annotated[float | None, typer.Option(help=SIGMA_HELP)] = None,
    out: Annotated[str | None, typer.Option(help="Folder or URL of the run; runs/NAME where not given.")] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Row of the tables; the factory, the package's name or the trial's row where not given."),
    ] = None,
    n: Annotated[int, typer.Option(help="Noise samples that estimate a probability.")] = N,
    n0: Annotated[int, typer.Option(help="Noise samples that select the class.")] = N0,
    alpha: Annotated[float, typer.Option(help="At most this probability that a certificate is wrong.")] = ALPHA,
    images: Annotated[int | None, typer.Option(help="Evenly spaced test images; all where not given.")] = None,
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
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
    shard_size: Annotated[int, typer.Option(min=1, help="Test images of a shard.")] = 16,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Noise samples of a forward pass; as many as the model and memory take.")
    ] = None,
    denoiser: DenoiserOption = None,
    plugin: PluginOption = None,
) -> None:
    """Certify any model; also under `accelerate launch`, one process per GPU. The same command again goes on."""
    _log_to_terminal()
    with stopped_in_order(), user_errors():
        from bench.data import dataset_name, resolve_data
        from bench.models.sources import joined
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
        # Before the model is opened, which takes torch and the user's own code.
        general = {"seed": seed or 0, "certify": chosen}
        parts = _parts(model, classifier or [], selector, sigma)
        if model is None:
            composition = "dual" if selector else "multi-scale"
            general["name"] = composition if name is None else name
            _composed(**general, composition=composition, parts=[part.stated("") for part in parts])
        else:
            _external(**general, name="model" if name is None else name, sigma=1.0 if sigma is None else sigma)
        load_plugins(plugin or ())
        _refuse_unsaid(parts, data, denoiser)
        if out is not None:
            check_room(RunFolder(location(out)))
            refuse_in_use(RunFolder(location(out)))
        sources = [_opened(part, denoiser) for part in parts]
        from bench.machine.processes import first_process_first
        from bench.runner.single import certify_source

        trial = next((source.trial for source in sources if source.trial), None)
        parts, data = _known(parts, sources, data, denoiser)
        with first_process_first():  # which downloads the data, if it must
            place = resolve_data(data)
        general |= {"data": place, "dataset": dataset_name(place)}
        stated = [part.stated(source.weights) for part, source in zip(parts, sources, strict=True)]
        settings: ExternalTrial | ComposedTrial
        if model is None:
            called = ", ".join(dict.fromkeys(part.model for part in parts))
            settings = _composed(**general, composition=composition, parts=stated, model=called)
            source = joined(sources, settings.name, settings.weights)
        else:
            [source] = sources
            general["name"] = name if name is not None else trial.name if trial else source.name
            general["seed"] = seed if seed is not None else trial.seed if trial else 0
            settings = _external(**general, **stated[0])
        folder = RunFolder(location(out or Path("runs") / settings.name))
        if certify_source(source, settings, folder, shard_size, batch=batch):
            merge_and_report(folder)


@app.command()
def predict(
    model: ModelOption = None,
    classifier: ClassifiersOption = None,
    selector: SelectorOption = None,
    data: Annotated[str | None, typer.Option(help=DATA_HELP)] = None,
    sigma: Annotated[float | None, typer.Option(help=SIGMA_HELP)] = None,
    n: Annotated[int, typer.Option(min=1, help="Noise samples of an image.")] = 1000,
    alpha: Annotated[
        float, typer.Option(help="At most this probability that an answer is not the smoothed classifier's.")
    ] = ALPHA,
    images: Annotated[
        int | None, typer.Option(help=f"Evenly spaced test images; {PREDICTED}, or all of fewer, where not given.")
    ] = None,
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Of the noise.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON alone.")] = False,
    denoiser: DenoiserOption = None,
    plugin: PluginOption = None,
) -> None:
    """PREDICT on test images: the smoothed classifier's answers, or that it abstains."""
    with user_errors():
        chosen: dict[str, object] = {"precision": precision, "images": images}
        general = {"name": "model", "seed": seed, "certify": chosen}
        parts = _parts(model, classifier or [], selector, sigma)
        _external(**general, sigma=1.0 if sigma is None else sigma)  # before the model is opened
        from bench.data import load_images, resolve_data
        from bench.models.sources import joined
        from bench.settings.plugins import load_plugins
        from results.bounds.prediction import check_prediction

        check_prediction(n, alpha)
        load_plugins(plugin or ())
        _refuse_unsaid(parts, data, denoiser)
        sources = [_opened(part, denoiser) for part in parts]
        from bench.audit.predict import predict_source

        parts, data = _known(parts, sources, data, denoiser)
        test = load_images(resolve_data(data), "test")
        if images is None:
            chosen["images"] = min(PREDICTED, len(test))
        stated = [part.stated(source.weights) for part, source in zip(parts, sources, strict=True)]
        settings: ExternalTrial | ComposedTrial
        if model is None:
            settings = _composed(**general, composition="dual" if selector else "multi-scale", parts=stated)
            source = joined(sources, settings.name, settings.weights)
        else:
            settings, [source] = _external(**general, **stated[0]), sources
        found = predict_source(source, settings, test, n=n, alpha=alpha)
    shares = found.shares()
    if as_json:
        typer.echo(json.dumps({"rows": found.rows.to_dict("records"), **shares}, indent=2))
        return
    _print(found.rows)
    console.print("")
    for name, share in shares.items():
        console.print(f"{name.replace('_', ' ')}: {share:.1%}", highlight=False)


def _refuse_unsaid(parts: list[_Part], data: str | None, denoiser: str | None) -> None:
    """Before a model is opened, which takes torch and the user's own code.

    Raises:
        UserError: σ or the data is not given, and a model's name says that it is of no training of this program.
        BenchError: a σ is one of pixels up to 255.
        DataError: the data is not there.
    """
    from bench.data import refuse_missing
    from bench.models.shelf import is_on_shelf
    from bench.models.sources import is_factory
    from bench.settings.grid import of_pixels

    for part in parts:
        if part.sigma is not None:
            of_pixels(part.sigma)
        elif denoiser is not None:
            raise UserError(f"{part.needs_sigma()} with --denoiser, which it tells the noise to remove")
    foreign = [part for part in parts if is_on_shelf(part.model) or is_factory(part.model)]
    _refuse_unknown(foreign, data_known=data is not None or len(foreign) < len(parts))
    if data is not None:
        refuse_missing(data)


def _refuse_unknown(parts: list[_Part], *, data_known: bool) -> None:
    """Raise UserError where σ of models from elsewhere, or the data, is not known."""
    needed = [part.needs_sigma() for part in parts if part.sigma is None]
    if needed or not data_known:
        what = needed[0] if needed else "--data: must be given"
        raise UserError(f"{what} for a model that was not trained by this program")


def _known(
    parts: list[_Part], sources: list[Source], data: str | None, denoiser: str | None
) -> tuple[list[_Part], str]:
    """The parts with what is known of their models, and the data: what was given, or that of a training.

    Raises:
        UserError: a σ or the data was not given, and no training says it.
    """
    data = next((source.trial.data for source in sources if source.trial), None) if data is None else data
    parts = [part.of(source, denoiser) for part, source in zip(parts, sources, strict=True)]
    _refuse_unknown(parts, data_known=data is not None)
    assert data is not None
    return parts, data


def _opened(part: _Part, denoiser: str | None) -> Source:
    from bench.models.sources import open_model

    return open_model(part.model, denoiser, part.sigma)


@dataclass(frozen=True)
class _Part:
    """A smoothed classifier as the command line names it."""

    option: str
    model: str
    sigma: float | None
    """None: that of its training."""

    def of(self, source: Source, denoiser: str | None) -> _Part:
        """The part with what is known of its model."""
        if source.trial is None:
            return replace(self, model=f"{denoiser} > {self.model}") if denoiser else self
        return replace(self, model=source.trial.model, sigma=source.trial.sigma if self.sigma is None else self.sigma)

    def stated(self, weights: str) -> dict[str, object]:
        """As settings have it."""
        return {"model": self.model, "sigma": 1.0 if self.sigma is None else self.sigma, "weights": weights}

    def needs_sigma(self) -> str:
        """The beginning of a sentence that says when σ is needed."""
        own = self.option == "--model"
        return "--sigma: must be given" if own else f"{self.option} {self.model}: @SIGMA must be given"


def _parts(model: str | None, classifiers: list[str], selector: str | None, sigma: float | None) -> list[_Part]:
    """What is to be opened: the model; or the selector, if there is one, and the classifiers.

    Raises:
        UserError: it is not one or the other; or a σ is no number.
    """
    if model is not None:
        if classifiers or selector:
            raise UserError("--model: give it alone, or --classifier MODEL@SIGMA twice or more in its place")
        return [_Part("--model", model, sigma)]
    if len(classifiers) < 2:
        raise UserError("give --model, or --classifier MODEL@SIGMA twice or more")
    if sigma is not None:
        raise UserError(f"--sigma {sigma:g}: give each --classifier its own, as in {classifiers[0]}@{sigma:g}")
    named = [("--selector", selector)] if selector else []
    return [_part(option, text) for option, text in [*named, *(("--classifier", text) for text in classifiers)]]


def _part(option: str, text: str) -> _Part:
    from bench.models.shelf import is_on_shelf

    model, at, noise = text.rpartition("@")
    if not at and "/" in text and not is_on_shelf(text):  # RUN/TRIAL, at the σ of its training
        return _Part(option, text, None)
    try:
        return _Part(option, model, float(noise))
    except ValueError:
        without = text if not at or "=" in noise else model  # = is of an option of the model
        raise UserError(f"{option} {text}: must be MODEL@SIGMA, as in {without}@0.25") from None


def _composed(**given: object) -> ComposedTrial:
    """Settings of several models that are composed, as `_external`."""
    from results.store.settings import ComposedTrial

    return _validated(ComposedTrial, {"model": ""} | given)


def _external(**given: object) -> ExternalTrial:
    """Settings of a model from elsewhere, whose name and weights may still be unknown.

    Raises:
        UserError: one of them is not allowed.
    """
    from results.store.settings import ExternalTrial

    return _validated(ExternalTrial, {"model": "", "weights": ""} | given)


def _validated(kind: type[Kind], given: dict[str, object]) -> Kind:
    from pydantic import ValidationError

    from results.store.record import explain

    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise UserError(explain(error, kind)) from None


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
        folder = merged_run(run)
        from bench.data import refuse_missing
        from bench.settings.plugins import load_plugins

        load_plugins(plugin or ())
        if data is not None:
            refuse_missing(data)
        from bench.audit.verify import outcomes, verify_run

        seed = secrets.randbits(31) if seed is None else seed
        found = verify_run(folder, images, seed=seed, data=data, factories=model or ())
    listed = [verdict for verdict in found.verdicts if verdict.outcome != "identical"]
    if len(found.verdicts) <= FEW:
        listed = found.verdicts
    if listed:
        _print(outcomes(listed))
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
    seed: SeedOption = 0,
    plugin: PluginOption = None,
) -> None:
    """Attack the smoothed models (PGD over the noise): no certified image may fall inside its radius."""
    with user_errors():
        folder = merged_run(run)
        from bench.data import refuse_missing
        from bench.settings.plugins import load_plugins

        load_plugins(plugin or ())
        if data is not None:
            refuse_missing(data)
        from bench.audit.attack import Attack, attack_run

        inside, accuracy, power = attack_run(
            folder, images, Attack(steps, samples, n), seed=seed, data=data, factories=model or ()
        )
    console.print("Accuracy (%) at a radius: certified, and empirical under the attack")
    _print(accuracy.round({"certified": 1, "empirical": 1}))
    if inside.empty:
        raise UserError("none of these images is certified, so no certificate was attacked: give more --images")
    fallen = inside[inside["fallen"]]
    console.print(f"{len(fallen)} of {len(inside)} certified images fell inside their radius", highlight=False)
    if len(fallen):
        _print(fallen)
    _print_power(power)
    raise typer.Exit(1 if len(fallen) else 0)


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
    rounds: Annotated[int, typer.Option(min=1, help="Each contestant runs once per round; medians are given.")] = 3,
    images: Annotated[int, typer.Option(min=1, help="Test images to compare bf16 with fp32 (RUN/TRIAL).")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON alone.")] = False,
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
            _log_to_terminal()
        found = measure(model, sigma=sigma, rounds=rounds, images=images)
    _print_contest(found, "samples_per_second", as_json=as_json)


@perf_app.command("train")
def perf_train(
    model: Annotated[str, typer.Option(help="resnet20 or another of ours.")] = "resnet20",
    rounds: Annotated[int, typer.Option(min=1, help="Each contestant runs once per round; medians are given.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON alone.")] = False,
) -> None:
    """Training beside a plain loop as published, with what bounds it: same model, same machine, one run."""
    from bench.settings.registries import check_network

    with user_errors():
        check_network(model)
        from bench.audit.perf_train import measure_training

        if not as_json:
            _log_to_terminal()
        found = measure_training(model, rounds=rounds)
    _print_contest(found, "images_per_second", as_json=as_json)


def _print_contest(found: dict[str, Any], rates: str, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    single = {key: value for key, value in found.items() if not isinstance(value, dict)}
    console.print(Sheet([Heading(""), Heading("")], [[key, _short(value)] for key, value in single.items()]))
    for key in (rates, "ratios"):
        rows = [[name, f"{value:.0f}" if value >= 100 else f"{value:.3g}"] for name, value in found[key].items()]
        console.print(f"\n{key.replace('_', ' ')}", Sheet([Heading(""), Heading("")], rows))


def _log_to_terminal() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("bench").setLevel(logging.INFO)


def _print(frame: pd.DataFrame) -> None:
    headings = [Heading(column, least=24 * (column in ("trial", "trial_id", "outcome"))) for column in frame.columns]
    console.print(
        Sheet(headings, [[_short(value) for value in row] for row in frame.itertuples(index=False, name=None)])
    )


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
