from __future__ import annotations

import math
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text
from scipy.special import ndtr, ndtri

from results.analysis.groups import certified_groups
from results.analysis.metrics import label_probabilities, worker_hours
from results.analysis.statistics import simultaneous_band
from results.bounds.radius import certified_radius, lower_confidence_bound
from results.report.figures import drawn, figures_of, save_figure
from results.report.figures.curves import MOST_BANDS, figure_certified_accuracy, figure_decomposition, figure_p_a
from results.report.figures.illustrations import (
    DIMENSIONS,
    distance_density,
    distance_moments,
    figure_class_overlap,
    figure_sample_weights,
    overlap_accuracy,
    sample_weights,
)
from results.report.figures.steps import CELLS, curve, distribution, thinned
from results.report.figures.style import looks, words_of
from results.report.figures.theory import (
    SOFTMAX_BOUND,
    component_range,
    figure_principal_variances,
    figure_robustness_gradient,
    kept_components,
    robustness_gradient,
    softmax_gradient,
    threshold_name,
    thresholded_gradient,
)
from results.report.figures.training import (
    figure_accuracy_by_epoch,
    figure_cost,
    figure_gradient_by_epoch,
    maximising,
)
from results.store.run import Run
from results.store.schema import CERTIFICATES, EPOCHS, SPECTRA, TRIALS

N, ALPHA = 1000, 0.001
CURVES, EPOCHS_FIGURE, DECOMPOSITION = "certified_accuracy_curves", "accuracy_by_epoch", "decomposition_curves"
GRADIENT, VARIANCES, P_A = "robustness_gradient", "principal_variances", "p_a_distribution"
WEIGHTS, OVERLAP, MAXIMISING = "sample_weights", "class_overlap", "gradient_by_epoch"
FORMULAS = [GRADIENT, WEIGHTS, OVERLAP]
VARIANTS = {"gaussian": "gaussian", "generalised": "generalised", "generalised_ld": "generalised_ld"}
TITLES = {"gaussian_ld": "Gaussian+LD", "generalised_ld": "Ours", "generalised_per_sample": "Generalised consistency"}


def certificates_of(method: str, sigma: float, seed: int, images: int) -> pd.DataFrame:
    """Drawn by a coin whose sides belong to the image."""
    random = np.random.default_rng([seed, images, len(method), int(100 * sigma)])
    index = np.arange(images)
    count = random.binomial(N, random.uniform(0.3, 1, images))
    wrong = index % 5 == 0
    n = np.where(wrong, 0, N)
    count = np.where(wrong, 0, count)
    p_lower = np.where(wrong, 0.0, lower_confidence_bound(count, N, ALPHA))
    certified = p_lower >= 0.5
    columns = {
        "trial_id": f"{method}-{sigma:g}-{seed}", "method": method, "sigma": sigma, "seed": seed, "index": index,
        "label": index % 10, "selected": (index + wrong) % 10, "predicted": np.where(certified, index % 10, -1),
        "status": np.where(wrong, "misclassified", np.where(certified, "certified", "abstained")),
        "correct": certified, "radius": certified_radius(p_lower, sigma), "p_lower": p_lower, "count_top": count,
        "n": n, "estimator": "fixed",
    }  # fmt: skip
    return pd.DataFrame(columns).reindex(columns=CERTIFICATES.names)


def make_run(
    methods: list[str], sigmas: tuple[float, ...] = (0.25, 0.5), seeds: int = 1, images: int = 60, components: int = 0
) -> Run:
    """A run as `read_run` gives it, with the columns that figures read."""
    certificates, trials, epochs = [], [], []
    for method in methods:
        for sigma in sigmas:
            for seed in range(seeds):
                certificates.append(certificates_of(method, sigma, seed, images))
                same = {"trial_id": f"{method}-{sigma:g}-{seed}", "method": method, "sigma": sigma, "seed": seed}
                ratio = 0.1 if method.endswith("_tenth") else 0.2 if "_ld" in method else np.nan
                trials.append(
                    {
                        **same, "dataset": "cifar10", "classes": None, "title": TITLES.get(method, method),
                        "variant_of": VARIANTS.get(method.split("_")[0]) if "_" in method else None,
                        "decomposition_ratio": ratio,
                        "decomposition_kept": 1000 * ratio * sigma, "train_seconds": 3600.0 * len(method),
                        "workers": 2, "certify_seconds": 1800.0, "memory_kind": "resident",
                        "settings": '{"options": {}}',
                    }
                )  # fmt: skip
                epochs += [{**same, "epoch": epoch, "noisy_test_accuracy": 0.1 * epoch + 0.01} for epoch in range(5)]
    spectra = pd.DataFrame(
        {"dataset": "toy", "images": 200, "component": range(components), "variance": falling(components)}
    )
    return Run(
        pd.concat(certificates, ignore_index=True),
        pd.DataFrame(trials).reindex(columns=TRIALS.names),
        pd.DataFrame(epochs).reindex(columns=EPOCHS.names),
        spectra.reindex(columns=SPECTRA.names),
    )


def falling(components: int) -> np.ndarray[Any, Any]:
    return 30 / (1.0 + np.arange(components)) ** 1.5


def imported(run: Run) -> Run:
    """The run as if it were read from another program's logs, which hold neither counts nor how it was trained."""
    unknown = {"selected": np.nan, "count_top": np.nan, "counts": None, "n": N, "estimator": "imported"}
    status = np.where(run.certificates["radius"] > 0, "certified", "abstained")
    trials = run.trials.assign(train_seconds=np.nan, workers=np.nan, memory_kind=None)
    return Run(run.certificates.assign(**unknown, status=status), trials, EPOCHS.empty_table().to_pandas())


def lines_of(panel: Axes, colour: str) -> list[np.ndarray[Any, Any]]:
    """(points, 2) of every line of that colour that has one, thick or thin, without markers alone."""
    return [
        np.asarray(line.get_xydata())
        for line in panel.lines
        if to_hex(line.get_color()) == colour.lower() and line.get_linestyle() != "None"
    ]


def texts_of(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text) if isinstance(text, Text))


def test_the_area_under_the_curve_is_the_acr_and_it_never_rises() -> None:
    random = np.random.default_rng(0)
    radii, correct = random.uniform(0, 1, 500), random.random(500) < 0.7
    at, accuracy = curve(radii, correct)
    assert (np.diff(at) >= 0).all()
    assert (np.diff(accuracy) <= 0).all()
    assert (np.diff(at) * accuracy[1:]).sum() == pytest.approx((radii * correct).mean())
    for radius in (0.0, 0.3, float(radii[correct][0])):  # a step holds up to and with its radius
        assert accuracy[np.searchsorted(at, radius)] == (correct & (radii >= radius)).mean()


def test_a_curve_without_a_correct_image_is_zero() -> None:
    at, accuracy = curve(np.array([0.3, 0.0]), np.array([False, False]))
    assert at.tolist() == [0, 0]
    assert accuracy.tolist() == [0, 0]


def test_a_thinned_curve_is_short_and_stays_within_a_cell() -> None:
    random = np.random.default_rng(1)
    radii = np.minimum(np.abs(random.normal(0, 0.5, 20_000)), 0.9)  # 7 % end at the largest radius
    x, y = curve(radii, random.random(20_000) < 0.8)
    thin_x, thin_y = thinned(x, y)
    assert len(thin_x) < 700 < len(x)
    assert (thin_x[0], thin_y[0], thin_x[-1], thin_y[-1]) == (x[0], y[0], x[-1], y[-1])
    near = np.abs(x[:, None] - thin_x) <= x[-1] / CELLS
    near &= np.abs(y[:, None] - thin_y) <= 1 / CELLS
    assert near.any(axis=1).all()
    assert {(0.9, y[-2]), (0.9, 0.0)} <= set(zip(thin_x, thin_y, strict=True))  # the last fall, whole and in its place
    few = curve(np.array([0.1, 0.2, 0.4]), np.array([True, True, True]))
    assert [values.tolist() for values in thinned(*few)] == [values.tolist() for values in few]


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_band_is_that_of_the_whole_curve(seeds: int) -> None:
    run = make_run(["generalised_ld"], (0.25,), seeds)
    rows = run.certificates
    figure = figure_certified_accuracy(run)
    x, y = curve(rows["radius"].to_numpy(), rows["correct"].to_numpy())
    band, *of_seeds = figure.axes[0].collections
    assert len(of_seeds) == (seeds > 1)
    corners = np.asarray(band.get_paths()[0].vertices)
    for ends in simultaneous_band(y, 60, seeds):
        for corner in zip(x, 100 * ends, strict=True):
            assert np.isclose(corners, corner).all(axis=1).any()
    assert "all radii at once" in " ".join(texts_of(figure).split())


def test_certified_accuracy_draws_the_curve_of_each_method_and_the_published_values() -> None:
    run = make_run(["gaussian", "generalised_ld"])
    figure = figure_certified_accuracy(run)
    assert [panel.get_title() for panel in figure.axes] == ["σ = 0.25", "σ = 0.5"]
    rows = run.certificates[(run.certificates["method"] == "generalised_ld") & (run.certificates["sigma"] == 0.5)]
    [line] = lines_of(figure.axes[1], looks(run)["generalised_ld"].colour)
    x, y = curve(rows["radius"].to_numpy(), rows["correct"].to_numpy())
    assert np.allclose(line, np.stack([x, 100 * y], axis=1))
    points = [line for line in figure.axes[0].lines if line.get_linestyle() == "None"]
    assert sorted(float(np.asarray(line.get_ydata())[0]) for line in points) == [74.8, 75.8]
    assert all(len(np.asarray(line.get_ydata())) == 4 for line in points)  # zeros are not drawn
    assert "published: thesis" in texts_of(figure)


def test_published_marks_of_another_setting_are_grey_with_the_reason() -> None:
    def marks(run: Run) -> tuple[set[str], str]:
        figure = figure_certified_accuracy(run)
        hollow = [line for panel in figure.axes for line in panel.lines if line.get_linestyle() == "None"]
        assert hollow
        return {to_hex(line.get_markeredgecolor()) for line in hollow}, " ".join(texts_of(figure).split())

    run = make_run(["gaussian", "macer"])
    same = replace(run, trials=run.trials.assign(model="resnet110", n=100_000, alpha=0.001))
    colours, text = marks(same)
    assert colours == {to_hex(looks(same)[method].colour) for method in ("gaussian", "macer")}
    assert "another setting" not in text
    for change, reason in (
        ({"model": "resnet20"}, "the network is not ResNet-110"),
        ({"n": 10_000}, "n is below 100 000"),
        ({"n": 200_000}, "n is above 100 000"),
        ({"dataset": "cifar10-jpeg@1"}, "the images are a copy of CIFAR-10"),
    ):
        colours, text = marks(replace(same, trials=same.trials.assign(**change)))
        assert colours == {to_hex("0.6")}
        assert f"Grey marks: published for another setting, since here {reason}" in text


def test_many_curves_have_no_bands_and_the_widest_is_said() -> None:
    seven = make_run([f"own{number}" for number in range(MOST_BANDS)], (0.25,))
    eight = make_run([f"own{number}" for number in range(MOST_BANDS + 1)], (0.25,), seeds=2)
    assert len(figure_certified_accuracy(seven).axes[0].collections) == MOST_BANDS
    figure = figure_certified_accuracy(eight)
    [panel] = figure.axes
    assert not panel.collections
    assert len(panel.lines) == MOST_BANDS + 1
    text = " ".join(texts_of(figure).split())
    assert "band of the whole curve" not in text
    assert "one training seed" not in text
    widest = math.sqrt(math.log(2 * 2 / 0.05) / (2 * 60))
    assert f"at all radii at once (DKW), they are at most ±{100 * widest:.1f} points." in text


def test_another_source_has_other_markers_and_none_has_no_legend_entry() -> None:
    assert "published: logs of Jeong & Shin 2020" in texts_of(
        figure_certified_accuracy(make_run(["consistency"]), "jeong2020_logs")
    )
    assert "published" not in texts_of(figure_certified_accuracy(make_run(["own_method"])))
    with pytest.raises(ValueError, match="unknown source"):
        figure_certified_accuracy(make_run(["gaussian"]), "thesys")


def test_several_seeds_are_thin_lines_and_their_mean_a_thick_one() -> None:
    run = make_run(["generalised_ld"], (0.25,), seeds=3)
    figure = figure_certified_accuracy(run)
    *thin, mean = lines_of(figure.axes[0], looks(run)["generalised_ld"].colour)
    assert len(thin) == 3
    assert mean[0, 1] == pytest.approx(np.mean([line[0, 1] for line in thin]))
    assert "one training seed" in texts_of(figure)
    assert "one training seed" not in texts_of(figure_certified_accuracy(make_run(["generalised_ld"])))


def test_a_method_looks_the_same_in_every_figure() -> None:
    run = make_run(["gaussian_ld_tenth", "gaussian", "consistency", "generalised", "generalised_per_sample"])
    look = looks(run)
    assert list(look)[:2] == ["consistency", "gaussian"]  # the thesis's own first
    drawn = {name: {to_hex(line.get_color()) for panel in figure.axes for line in panel.lines}
             for name, figure in figures_of(run)}  # fmt: skip
    consistency, gaussian = (look[method].colour.lower() for method in ("consistency", "gaussian"))
    for name in (CURVES, EPOCHS_FIGURE, P_A, "cost"):
        assert consistency in drawn[name]
    assert gaussian in drawn[DECOMPOSITION]
    assert not {gaussian} & drawn[EPOCHS_FIGURE]
    assert not {consistency} & drawn[DECOMPOSITION]
    # Costs are not known of all methods: the others keep their looks.
    run.trials.loc[run.trials["method"] == "consistency", "train_seconds"] = np.nan
    [points, _] = figure_cost(run).axes
    assert {to_hex(line.get_color()) for line in points.lines} == {
        how.colour.lower() for method, how in look.items() if method != "consistency"
    }


def test_many_methods_all_look_different() -> None:
    run = make_run([f"method{number}" for number in range(20)], (0.25,), images=5)
    assert len({(how.colour, how.dash) for how in looks(run).values()}) == 20
    assert len({(how.colour, how.marker) for how in looks(run).values()}) == 20


def test_a_colour_group_has_one_colour_and_the_others_theirs() -> None:
    run = make_run(["gaussian", "generalised_ld", "mine", "mine_too", "other", "loop"], (0.25,), images=5)
    plain = looks(run)
    groups = {"mine": "gaussian", "mine_too": "gaussian", "other": "loop", "loop": "other"}
    run.trials["colour_group"] = run.trials["method"].map(groups)
    found = looks(run)
    assert list(found) == list(plain)
    assert found["gaussian"] == plain["gaussian"]
    assert found["generalised_ld"] == plain["generalised_ld"]
    same = [found[method] for method in ("gaussian", "mine", "mine_too")]
    assert len({look.colour for look in same}) == 1
    assert len({look.dash for look in same}) == len({look.marker for look in same}) == 3
    assert found["generalised_ld"].colour != found["other"].colour != found["loop"].colour != same[0].colour
    run.trials.loc[run.trials["method"] == "gaussian", "method"] = "another"
    run.epochs.loc[run.epochs["method"] == "gaussian", "method"] = "another"
    assert looks(run)["mine"].colour == looks(run)["mine_too"].colour  # a group without the method called so
    many = make_run([f"method{number}" for number in range(12)], (0.25,), images=5)
    many.trials["colour_group"] = "all"
    assert len({look.colour for look in looks(many).values()}) == 1


def test_imported_rows_are_nobodys_variants_and_have_colours() -> None:
    run = imported(make_run(["gaussian", "gaussian_ld", "generalised_ld"]))
    run.trials["variant_of"] = None
    assert [name for name, _ in figures_of(run)] == [CURVES, *FORMULAS, P_A]
    assert len({look.colour for look in looks(run).values()}) == 3


def test_the_variants_of_the_ablation_differ_in_grey() -> None:
    variants = ["generalised", "generalised_probabilities", "generalised_per_sample"]
    decomposed = ["generalised_ld", "generalised_ld_tenth", "gaussian_ld", "gaussian_ld_tenth"]
    look = looks(make_run([*decomposed, *variants, "consistency", "gaussian"], (0.25,), images=5))
    for compared in (["consistency", *variants], ["gaussian", "gaussian_ld", "gaussian_ld_tenth"]):
        assert len({look[method].dash for method in compared}) == len(compared)
        assert len({look[method].marker for method in compared}) == len(compared)


def test_label_probabilities_by_hand() -> None:
    rows = pd.DataFrame(
        [  # certified; abstained; another class, estimated; misclassified; imported: correct, wrong, abstained
            ("fixed", "certified", 3, 3, 900, 1000, True, 0.8),
            ("fixed", "abstained", 3, 3, 300, 500, False, 0.4),
            ("fixed", "certified", 4, 3, 990, 1000, False, 0.9),
            ("fixed", "misclassified", 4, 3, 0, 0, False, 0.0),
            ("imported", "certified", np.nan, 3, np.nan, 1000, True, 0.7),
            ("imported", "certified", np.nan, 3, np.nan, 1000, False, 0.9),
            ("imported", "abstained", np.nan, 3, np.nan, 1000, False, 0.0),
        ],
        columns=["estimator", "status", "selected", "label", "count_top", "n", "correct", "p_lower"],
    )
    counts = [[100, 0, 0, 900], [200, 0, 0, 300], [1, 2, 3, 4, 990], [0] * 5, None, None, None]
    assert label_probabilities(rows.assign(counts=pd.Series(counts))).tolist() == [0.9, 0.6, 0.004, 0, 0.7, 0, 0]


def test_the_distribution_function_by_hand() -> None:
    x, share = distribution(np.array([0.0, 0.5, 0.6, 0.6, 1.0, 0.2, 0.9, 0.0]))
    assert x.tolist() == [0.5, 0.6, 0.9, 1.0]
    assert share.tolist() == [4 / 8, 6 / 8, 7 / 8, 1]


def test_the_figure_of_p_a_starts_with_the_lost_images_and_ends_with_all() -> None:
    run = make_run(["generalised_ld"], (0.25,))
    [line] = lines_of(figure_p_a(run).axes[0], looks(run)["generalised_ld"].colour)
    below = label_probabilities(run.certificates) <= 0.5
    assert line[0].tolist() == [0.5, 100 * below.mean()]
    assert line[-1].tolist() == [1, 100]
    assert (np.diff(line[:, 1]) >= 0).all()
    assert "Imported" not in texts_of(figure_p_a(run))


def test_imported_certificates_show_their_lower_bounds_and_say_so() -> None:
    run = imported(make_run(["generalised_ld"], (0.25,)))
    figure = figure_p_a(run)
    [line] = lines_of(figure.axes[0], looks(run)["generalised_ld"].colour)
    assert line[0, 1] == pytest.approx(100 * (1 - run.certificates["correct"].mean()))
    assert "Imported certificates have no counts" in texts_of(figure)
    assert [name for name, _ in figures_of(run)] == [CURVES, *FORMULAS, P_A]


def test_accuracy_by_epoch_shows_percent_by_finished_epochs() -> None:
    run = make_run(["consistency", "generalised", "gaussian"], (0.25,))
    figure = figure_accuracy_by_epoch(run)
    [line] = lines_of(figure.axes[0], looks(run)["consistency"].colour)
    assert np.allclose(line, [[1, 1], [2, 11], [3, 21], [4, 31], [5, 41]])
    assert len(figure.axes[0].lines) == 2


def test_the_decomposition_figure_says_which_directions_are_kept() -> None:
    figure = figure_decomposition(make_run(["gaussian", "gaussian_ld", "gaussian_ld_tenth", "generalised_ld"]))
    assert [panel.get_title() for panel in figure.axes] == [
        "σ = 0.25\ndirections kept: 50 (σ²/5), 25 (σ²/10)",
        "σ = 0.5\ndirections kept: 100 (σ²/5), 50 (σ²/10)",
    ]
    assert "Gaussian+LD, variances above σ²/5" in texts_of(figure)
    assert "Ours" not in texts_of(figure)
    assert [threshold_name(ratio) for ratio in (1.0, 0.2, 0.1, 1 / 3, 0.3)] == ["σ²", "σ²/5", "σ²/10", "σ²/3", "0.3 σ²"]


def test_the_gradient_is_the_derivative() -> None:
    p, step = np.linspace(0.01, 0.985, 40), 1e-6
    assert robustness_gradient(p) == pytest.approx((ndtri(p + step) - ndtri(p - step)) / (2 * step), rel=1e-4)
    assert (thresholded_gradient(p) == robustness_gradient(p)).all()
    assert thresholded_gradient([0.99, 0.9901, 1.0]).tolist() == [float(robustness_gradient(0.99)), 0, 0]
    logit = np.log(p / (1 - p))  # a softmax of two classes, the other's logit 0
    around = [ndtri(1 / (1 + np.exp(-(logit + sign * step)))) for sign in (1, -1)]
    assert softmax_gradient(p) == pytest.approx((around[0] - around[1]) / (2 * step), rel=1e-4)
    assert softmax_gradient(0.5) == pytest.approx(np.sqrt(2 * np.pi) / 4)
    assert ndtr(0) == 0.5


def test_the_softmax_alone_bounds_the_gradient_and_the_bound_is_drawn() -> None:
    p = np.linspace(1e-6, 0.99, 9999)
    assert softmax_gradient(p).max() <= SOFTMAX_BOUND
    assert softmax_gradient(0.5) == pytest.approx(SOFTMAX_BOUND) == pytest.approx(0.6267, abs=1e-4)
    random, copies = np.random.default_rng(0), 5
    for _ in range(50):  # of the mean of several softmaxes: the derivatives by each label's logit, summed
        logits = random.normal(0, 3, (copies, 4))
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        mean = shares[:, 0].mean()
        derivatives = robustness_gradient(mean) * shares[:, 0] * (1 - shares[:, 0]) / copies
        assert derivatives.sum() <= robustness_gradient(mean) * mean * (1 - mean) + 1e-12 <= SOFTMAX_BOUND + 2e-12
    figure = figure_robustness_gradient()
    levels = [float(np.asarray(line.get_ydata())[0]) for line in figure.axes[2].lines if len(line.get_xdata()) == 2]  # type: ignore[arg-type]
    assert SOFTMAX_BOUND in levels
    assert "√(2π)/4 = 0.627" in texts_of(figure)
    assert "σ² in the exponent" in words_of(figure)


def test_weights_of_noise_samples_by_hand() -> None:
    probability, logit = sample_weights([0, 1, 2, 3])
    assert logit.tolist() == [6, 3, 0, -3]
    assert probability == pytest.approx(1 / (1 + np.exp([-6, -3, 0, 3])))
    assert distance_moments(2) == pytest.approx((np.sqrt(np.pi / 2), np.sqrt(2 - np.pi / 2)))  # Rayleigh's
    assert np.round(distance_moments(DIMENSIONS), 1).tolist() == [55.4, 0.7]
    drawn_distances = np.linalg.norm(np.random.default_rng(0).normal(size=(500, DIMENSIONS)), axis=1)
    assert (drawn_distances.mean(), drawn_distances.std()) == pytest.approx(distance_moments(DIMENSIONS), rel=0.1)
    r = np.linspace(0, 70, 70_001)
    assert distance_density(r, 2) == pytest.approx(r * np.exp(-(r**2) / 2))
    assert distance_density(r, DIMENSIONS).sum() * 0.001 == pytest.approx(1)
    words = words_of(figure_sample_weights())
    assert "gives no formula" in words
    assert "σ (55.4 ± 0.7)" in words


def test_overlap_of_two_classes_by_hand() -> None:
    assert overlap_accuracy([1, 5, 10]) == pytest.approx([0.841345, 0.672640, 0.624085], abs=1e-6)
    random = np.random.default_rng(0)
    side = random.choice([-1, 1], 100_000)
    assert (np.sign(side + np.sqrt(10) * random.normal(size=len(side))) == side).mean() == pytest.approx(
        0.624, abs=5e-3
    )
    figure = figure_class_overlap()
    assert [panel.get_title()[-6:] for panel in figure.axes[1:]] == ["62.4 %", "67.3 %"]
    assert all(word in words_of(figure) for word in ("10-fold variance in the caption", "of 5-fold in the text"))


def with_gradients(run: Run, methods: dict[str, float]) -> Run:
    """The run with a gradient norm of so much / (epoch + 1) of these methods."""
    norms = run.epochs["method"].map(methods) / (run.epochs["epoch"] + 1)
    return replace(run, epochs=run.epochs.assign(gradient_norm=norms.astype("float64")))


def test_gradients_are_drawn_of_the_methods_that_maximise_the_robustness_item() -> None:
    run = make_run(["direct", "direct_unthresholded", "macer", "gaussian"], seeds=2)
    run.trials.loc[run.trials["method"] == "direct_unthresholded", "variant_of"] = "direct"
    assert maximising(run) == []
    assert MAXIMISING not in dict(figures_of(run))
    run = with_gradients(run, {"direct": 8.0, "macer": 2.0, "gaussian": 1.0})
    assert maximising(run) == ["direct", "direct_unthresholded", "macer"]
    figure = figure_gradient_by_epoch(run)
    assert [panel.get_title() for panel in figure.axes] == ["σ = 0.25"] * 2 + ["σ = 0.5"] * 2
    accuracy, gradient = figure.axes[:2]
    assert [len(panel.lines) for panel in (accuracy, gradient)] == [3, 2]  # one has no gradients
    [line] = lines_of(gradient, looks(run)["direct"].colour)
    assert np.allclose(line, np.array([[1, 8], [2, 4], [3, 8 / 3], [4, 2], [5, 8 / 5]]))
    assert gradient.get_yscale() == "log"  # from 8 to 2/5
    assert "no number or figure" in words_of(figure)


def test_gradients_of_one_epoch_and_gradients_of_zero_are_drawn() -> None:
    run = make_run(["direct"], (0.25,))
    once = replace(run, epochs=run.epochs[run.epochs["epoch"] == 0].assign(gradient_norm=3.0))
    for each in (once, with_gradients(run, {"direct": 0.0})):
        [_, gradient] = figure_gradient_by_epoch(each).axes
        assert gradient.get_yscale() == "linear"
        assert gradient.get_ylim()[0] == 0
        assert drawn(dict(figures_of(each))[MAXIMISING])["png"]


def test_principal_variances_mark_as_many_components_as_exceed_each_threshold() -> None:
    run = make_run(["gaussian_ld"], components=1000)
    figure = figure_principal_variances(run)
    for panel, sigma in zip(figure.axes, (0.25, 0.5), strict=True):
        kept = [int((30 / k**1.5 > ratio * sigma**2).sum()) for ratio in (1, 0.2, 0.1) for k in [np.arange(1, 1001)]]
        assert kept_components(falling(1000), sigma) == kept
        text = panel.get_legend().get_texts()  # type: ignore[union-attr]
        assert [int(entry.get_text().split()[-3]) for entry in text] == kept
        spectrum = np.asarray(panel.lines[0].get_xydata())
        first, last = spectrum[[0, -1], 0].astype(int)
        assert np.allclose(spectrum[:, 1], falling(1000)[first - 1 : last])
        assert any(first <= count <= last for count in kept[1:])
    assert "toy, 200 training images" in texts_of(figure)


def test_the_range_of_components_is_the_thesiss_where_the_thresholds_lie_in_it() -> None:
    assert component_range(falling(1000), 0.5) == (50, 450)
    assert component_range(falling(150), 0.5) == (50, 150)  # there are no more
    first, last = component_range(falling(1000), 0.12)
    _, fifth, tenth = kept_components(falling(1000), 0.12)
    assert first < fifth <= tenth <= last <= 1000
    assert component_range(falling(4), 100.0)[0] < component_range(falling(4), 100.0)[1] == 4


def test_of_two_spectra_the_larger_set_of_images_is_shown() -> None:
    run = make_run(["gaussian_ld"], components=300)
    larger = run.spectra.assign(images=1234)
    both = replace(run, spectra=pd.concat([run.spectra, larger], ignore_index=True))
    assert "toy, 1 234 training images" in texts_of(figure_principal_variances(both))


def test_worker_hours_by_hand() -> None:
    trials = pd.DataFrame({"train_seconds": [7200.0], "workers": [4.0], "certify_seconds": [1800.0]})
    assert worker_hours(trials).tolist() == [8.5]


def test_costs_are_of_the_trials_trained_here() -> None:
    here, there = make_run(["mine"], (0.25,)), imported(make_run(["gaussian"], (0.25,)))
    both = Run(pd.concat([here.certificates, there.certificates]), pd.concat([here.trials, there.trials]), here.epochs)
    figure = figure_cost(both)
    [point] = [np.asarray(line.get_xydata()) for line in figure.axes[0].lines]
    assert point.tolist() == [[2 * 4 + 0.5, (here.certificates["radius"] * here.certificates["correct"]).mean()]]
    assert "worker-hours" in texts_of(figure)
    here.trials["memory_kind"] = "accelerator"
    assert "accelerator-hours" in texts_of(figure_cost(here))


def test_a_figure_says_above_what_it_shows_and_below_where_the_thesis_has_it() -> None:
    run = make_run(["gaussian", "gaussian_ld", "consistency", "generalised"], components=30)
    numbers = {
        GRADIENT: "3.1",
        WEIGHTS: "4.1",
        OVERLAP: "4.2",
        VARIANCES: "4.3",
        CURVES: "5.1",
        EPOCHS_FIGURE: "5.2",
        DECOMPOSITION: "5.3",
    }
    for name, figure in figures_of(run):
        title = figure.get_suptitle()
        assert title
        assert "Figure" not in title
        assert ("of the thesis" in texts_of(figure)) == (name in numbers)
        assert f"As Figure {numbers.get(name, '')}" in texts_of(figure) or name not in numbers


@pytest.mark.parametrize(
    ("methods", "components", "names"),
    [
        (["own_method"], 0, [CURVES, *FORMULAS, P_A, "cost"]),
        (["generalised"], 0, [CURVES, *FORMULAS, P_A, "cost"]),
        (["gaussian_ld"], 30, [CURVES, *FORMULAS, VARIANCES, P_A, "cost"]),
        (
            ["gaussian", "gaussian_ld", "consistency", "generalised_per_sample"],
            30,
            [CURVES, EPOCHS_FIGURE, DECOMPOSITION, *FORMULAS, VARIANCES, P_A, "cost"],
        ),
    ],
)
def test_a_run_has_the_figures_it_has_data_for_and_its_groups_are_found_once(
    methods: list[str], components: int, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Mock(wraps=certified_groups)
    monkeypatch.setattr("results.report.subject.certified_groups", found)
    assert [name for name, _ in figures_of(make_run(methods, components=components))] == names
    found.assert_called_once()


@pytest.mark.parametrize("again", [3, pytest.param(9, marks=pytest.mark.slow)])
def test_pictures_are_written_not_blank_and_equal_when_written_again(again: int, tmp_path: Path) -> None:
    settings = dict(mpl.rcParams)
    run = make_run(["gaussian", "gaussian_ld", "consistency", "generalised"], components=30)
    for folder, count in (("a", 9), ("b", again)):
        for name, figure in islice(figures_of(run), count):
            save_figure(drawn(figure), tmp_path / folder, name)
    written = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(written) == 18
    for path in (tmp_path / "b").iterdir():
        assert (tmp_path / "a" / path.name).read_bytes() == path.read_bytes()
    assert len(list((tmp_path / "b").iterdir())) == 2 * again
    for name in written:
        if name.endswith(".png"):
            picture = imread(tmp_path / "a" / name)
            assert picture.shape[1] == (3 if name.removesuffix(".png") in FORMULAS else 2) * 660
            assert picture.std() > 0.02
    assert dict(mpl.rcParams) == settings  # other people's figures keep their style
