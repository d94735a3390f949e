"""How the numbers of a run were measured, in sentences."""

from __future__ import annotations

import json
from itertools import combinations

import pandas as pd

from results.analysis.groups import of_published_data, trained_models
from results.printable import named_sigma, printable, sigma_text
from results.store.run import Run
from results.store.settings import DEFAULT_WIDTH

FEWER = {"two-stage": "curtailed two-stage sampling", "anytime": "anytime-valid bounds"}
"""Estimators that draw fewer than n samples, in words."""
MEASURED = ("lattice_pixels", "estimator", "device", "precision", "engine")
"""Columns of certificates that say how they were measured."""


def caption(run: Run) -> list[str]:
    """How the numbers came about, whether they compare with the published ones, and what is missing."""
    imported = run.certificates["estimator"] == "imported"
    sentences = []
    if not imported.all():
        measured = run.certificates[["trial_id", *MEASURED]][~imported]
        names = measured["trial_id"].unique()
        sentences.append(_measured(run.trials[run.trials["trial_id"].isin(names)], measured))
    if imported.any():
        names = run.certificates["trial_id"][imported].unique()
        sentences.append(_imported(run.trials[run.trials["trial_id"].isin(names)]))
    reasons = not_comparable(run.trials)
    if reasons:
        sentences.append(f"Not comparable with the published numbers: {'; '.join(reasons)}.")
    shared = _shared_models(run.trials)
    if shared:
        sentences.append(f"Not independent, for they share trained models: {'; '.join(shared)}.")
    if run.missing:
        sentences.append(f"Not finished, so not here: {', '.join(run.missing)}.")
    return sentences


def distinct(column: pd.Series) -> str:
    """The distinct values of a column, for a sentence."""
    column = column.dropna()  # unknown where a model was trained elsewhere; integers are floats then
    if pd.api.types.is_float_dtype(column) and (column % 1 == 0).all():
        column = column.astype("int64")
    values = column.unique()
    if pd.api.types.is_integer_dtype(column):
        return " or ".join(f"{value:,}".replace(",", " ") for value in sorted(values))
    return " or ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)


def networks(trials: pd.DataFrame) -> pd.Series:
    """The network of each trial, with its width where that is not the usual one."""
    widths = [json.loads(settings).get("width", DEFAULT_WIDTH) for settings in trials["settings"]]
    names = [
        name if width == DEFAULT_WIDTH else f"{name} of width {width}"
        for name, width in zip(trials["model"], widths, strict=True)
    ]
    return pd.Series(names, index=trials.index, dtype="str")


def _measured(trials: pd.DataFrame, certificates: pd.DataFrame) -> str:
    seeds = trials.groupby(["method", "sigma"])["seed"].nunique()
    trained = "trained elsewhere"
    if trials["device"].notna().any():
        elsewhere = " or elsewhere" if trials["device"].isna().any() else ""
        trained = (
            f"trained on {distinct(trials['device'])} in {distinct(trials['train_precision'])}"
            f"{_workers(trials['workers'])}{elsewhere}"
        )
    sound = certificates["lattice_pixels"].notna()
    arithmetic = " with sound arithmetic" if sound.all() else " with sound arithmetic in part" if sound.any() else ""
    kinds = set(certificates["estimator"].unique())
    at_most = " or ".join(words for kind, words in FEWER.items() if kind in kinds)
    at_most = f" at most ({at_most})" if at_most else ""
    return (
        f"{distinct(networks(trials))} on {distinct(trials['dataset'])}{_labels(trials)}, "
        f"{distinct(trials['images'])} test images, "
        f"n = {distinct(trials['n'])}{at_most}, n0 = {distinct(trials['n0'])}, "
        f"alpha = {distinct(trials['alpha'])}, "
        f"{'mean of ' if seeds.max() > 1 else ''}{distinct(seeds)} {_kind_of_seeds(trials)}"
        f"seed{'s' if seeds.max() > 1 else ''}; "
        f"{trained}, "
        f"certified on {distinct(certificates['device'])} in {distinct(certificates['precision'])} "
        f"({distinct(certificates['engine'])}){arithmetic}{_beacons(trials)}."
    )


def _workers(workers: pd.Series) -> str:
    """How many trained a model, where that was not one: batch statistics are of each one's part."""
    return f" by {distinct(workers)} workers, a part of each batch in each" if (workers > 1).any() else ""


def _beacons(trials: pd.DataFrame) -> str:
    """By what the noise is seeded, where it is by a beacon."""
    found = {json.loads(settings).get("certify", {}).get("beacon") for settings in trials["settings"]}
    named = sorted(found - {None})
    if not named:
        return ""
    part = " in part" if None in found else ""
    return f", with noise{part} seeded by the weights and the beacon {' or '.join(map(printable, named))}"


def _kind_of_seeds(trials: pd.DataFrame) -> str:
    """Of the certification where the weights of several are the same."""
    several = [own["checkpoint_sha256"].nunique() for _, own in trials.groupby(["method", "sigma"]) if len(own) > 1]
    if not any(weights == 1 for weights in several):
        return "training "
    return "certification " if all(weights == 1 for weights in several) else ""


def _imported(trials: pd.DataFrame) -> str:
    cells = ", ".join(
        dict.fromkeys(
            f"{method} at {named_sigma(sigma)}" for method, sigma in zip(trials["method"], trials["sigma"], strict=True)
        )
    )
    return (
        f"Imported from logs, without counts and with the n and alpha stated for them: {cells} "
        f"({distinct(trials['images'])} test images, n = {distinct(trials['n'])}, alpha = {distinct(trials['alpha'])})."
    )


def _labels(trials: pd.DataFrame) -> str:
    """In which order the labels stand, where they have names."""
    orders = dict.fromkeys(tuple(name[:40] for name in classes) for classes in trials["classes"].dropna())
    shown = [", ".join(order if len(order) <= 12 else [*order[:3], "…", order[-1]]) for order in orders]
    return f" (labels in the order {'; or '.join(shown)})" if shown else ""


def _shared_models(trials: pd.DataFrame) -> list[str]:
    """Which rows of a table have a trained model in common, such as an ensemble and the method of its members."""
    sigmas: dict[tuple[str, str], list[float]] = {}
    known = trials.filter(items=["sigma", "method", "trial_id", "members"])
    for sigma in sorted(known["sigma"].unique()):
        models: dict[str, set[str]] = {}
        for trial in known[known["sigma"] == sigma].to_dict("records"):
            models.setdefault(trial["method"], set()).update(trained_models(trial))
        for first, second in combinations(models, 2):
            if models[first] & models[second]:
                sigmas.setdefault((first, second), []).append(sigma)
    return [
        f"{first} and {second} at σ = {' and '.join(sigma_text(sigma) for sigma in at)}"
        for (first, second), at in sigmas.items()
    ]


def not_comparable(trials: pd.DataFrame) -> list[str]:
    """Why numbers of these trials do not compare with the published ones; nothing where they do."""
    reasons = []
    if not of_published_data(trials).all():
        reasons.append("the data is not CIFAR-10")
    elif (trials["dataset"] != "cifar10").any():
        reasons.append("the images are a copy of CIFAR-10, which may be partial or compressed")
    if (trials["model"] != "resnet110").any():
        reasons.append("the network is not ResNet-110")
    elif (networks(trials) != "resnet110").any():
        reasons.append(f"the width of the network is not {DEFAULT_WIDTH}")
    if (trials["n"] < 100_000).any():
        reasons.append("n is below 100 000, which lowers every radius")
    if (trials["n"] > 100_000).any():
        reasons.append("n is above 100 000, which raises every radius")
    if (trials["alpha"] != 0.001).any():
        reasons.append("alpha is not 0.001")
    return reasons
