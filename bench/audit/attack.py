"""An attack on the smoothed classifier: no certified image may fall inside its radius."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.stats import binomtest
from torch import Tensor

from bench.audit.verify import open_certified, rows_with_a_model
from bench.certify.engine import Engine
from bench.certify.smoothing import ABSTAIN, PREDICT_ALPHA, Smoothed, SmoothedClassifier
from bench.data import StoredImages, load_images
from bench.machine.normals import NormalStream
from bench.machine.randomness import Role
from bench.models.external import guarded
from bench.models.sources import Source
from results.analysis.metrics import RADII
from results.bounds.prediction import check_prediction
from results.store.folder import RunFolder
from results.store.settings import CertifiedTrial, CertifySettings

INSIDE = 0.999
"""An attack at the certified radius goes to this share of it: the guarantee is for what is strictly inside."""
TOO_LARGE = (1.05, 1.1, 1.2)
"""Shares of their radii at which the same images are attacked as well: what the attack would find of such radii."""
JUDGING_SAMPLES = 100_000
"""Fresh samples that decide whether an image that seems to have fallen has."""


@dataclass(frozen=True)
class Attack:
    """Projected gradient descent on the smoothed model (SmoothAdv: Salman et al. 2019, their equation 6)."""

    steps: int = 20
    samples: int = 16
    """Noise samples over which the softmax is averaged, drawn anew in every step."""
    n: int = 1000
    """Samples of PREDICT, which judges the attacked image."""

    def __post_init__(self) -> None:
        """Raises ValueError where n is too small for any answer, and so for a wrong one."""
        check_prediction(self.n, PREDICT_ALPHA)


def smoothed_pgd(
    model: Callable[[Tensor], Tensor],
    image: Tensor,
    label: int,
    *,
    radius: float,
    steps: int,
    noise: Callable[[], Tensor],
) -> Tensor:
    """The image moved by at most `radius` in ℓ2 such that the smoothed probability of `label` falls.

    Gradient ascent on −log mean_i softmax(f(x + δ + ε_i))_label, with normalised steps of 2.5 · radius / steps,
    projected onto the ball. The result may leave [0, 1]: the certificate covers that too.

    Args:
        model: differentiable, from (batch, channel, height, width) to logits, on the device of `image`.
        image: (channel, height, width).
        radius: in [0, 1] pixel units.
        noise: draws ε anew, (samples, channel, height, width).
    """
    delta = torch.zeros_like(image)
    for _ in range(steps):
        delta.requires_grad_()
        log_probabilities = F.log_softmax(model(image + delta + noise()), dim=1)[:, label]
        loss = -(torch.logsumexp(log_probabilities, dim=0))
        with guarded("gives no gradients"):
            [gradient] = torch.autograd.grad(loss, delta)
        delta = delta.detach() + 2.5 * radius / steps * gradient / gradient.norm().clamp(min=1e-12)
        delta = delta * min(1.0, radius / max(float(delta.norm()), 1e-12))
    return image + delta


def attack_run(
    run: RunFolder,
    images: int,
    attack: Attack,
    *,
    seed: int,
    data: str | None = None,
    factories: Collection[str] = (),
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Attack `images` random test images of every trial of a merged run.

    Returns:
        Three tables. One row per trial and certified image: `trial_id, index, radius` (certified), `answer` (of PREDICT
        on the image moved to just inside its radius), `fallen`: the answer is another class, and `JUDGING_SAMPLES`
        fresh samples say so too, at PREDICT's alpha divided by the number of certified images attacked (Bonferroni);
        `radius_again`: what an image that fell is certified for with as many fresh samples, at that alpha.
        One row per trial and radius: `certified` and `empirical` robust accuracy in percent on the same images; an
        image is robust if it is answered correctly after the attack, and not attacked where it is certified.
        One row per share of `TOO_LARGE`: how many of the certified images fell at that share of their radius, of how
        many.

    Raises:
        FileNotFoundError, SchemaError, DataError, SourceError, CheckpointError: as `bench.audit.verify.verify_run`.
    """
    certificates = rows_with_a_model(run)
    inside, accuracy, power = [], [], dict.fromkeys(TOO_LARGE, 0)
    chosen = {
        trial_id: rows.sample(min(images, len(rows)), random_state=np.random.default_rng(seed))
        for trial_id, rows in certificates.groupby("trial_id", sort=False)
    }
    claims = sum(int((picked["predicted"] != ABSTAIN).sum()) for picked in chosen.values())
    for trial_id, picked in chosen.items():
        source, settings, smoothed = open_certified(run, picked, data, factories)
        pixels = load_images(settings.data, "test", settings.dataset).images
        targets = _targets(source, smoothed, picked, torch.Size(pixels.shape[1:]), attack.samples)
        attacker = _Attacker(targets, smoothed, settings, attack, (seed, settings.noise_seed(source.weights)), pixels)
        for index, radius, predicted in picked.loc[
            picked["predicted"] != ABSTAIN, ["index", "radius", "predicted"]
        ].itertuples(index=False, name=None):
            moved = attacker.moved(index, predicted, INSIDE * radius)
            answer = attacker.judged(index, moved)
            fallen = attacker.has_fallen(index, moved, predicted, answer, PREDICT_ALPHA / claims)
            again = attacker.radius_again(index, PREDICT_ALPHA / claims) if fallen else np.nan
            inside.append((trial_id, index, radius, answer, fallen, again))
            for share in TOO_LARGE:
                power[share] += attacker.answer(index, predicted, share * radius) not in (predicted, ABSTAIN)
        for radius in [r for r in RADII if r <= max(RADII[0], picked["radius"].max())]:
            certified = picked["correct"] & (picked["radius"] >= radius)
            open_ = picked.loc[~certified & (picked["status"] != "misclassified"), ["index", "label"]]
            held = sum(
                attacker.answer(i, label, radius) == label for i, label in open_.itertuples(index=False, name=None)
            )
            accuracy.append((trial_id, radius, 100 * certified.mean(), 100 * (certified.sum() + held) / len(picked)))
    return (
        pd.DataFrame(inside, columns=["trial_id", "index", "radius", "answer", "fallen", "radius_again"]),
        pd.DataFrame(accuracy, columns=["trial_id", "radius", "certified", "empirical"]),
        pd.DataFrame([(share, fell, claims) for share, fell in power.items()], columns=["share", "fell", "attacked"]),
    )


@dataclass(frozen=True)
class _Target:
    """What is attacked at an image: a model under noise."""

    model: Callable[[Tensor], Tensor]
    sigma: float


def _targets(
    source: Source, smoothed: SmoothedClassifier, rows: pd.DataFrame, shape: torch.Size, samples: int
) -> dict[int, _Target]:
    """The target at each image: the model; of a composed classifier the part that answered."""
    opened: dict[int, _Target] = {}
    found = {}
    for row in rows.to_dict("records"):
        place = _answering(row)
        if place not in opened:
            engine = Engine(source.parts[place].model if source.parts else source.model, smoothed.device, "fp32")
            engine.limit(int(rows["batch"].iloc[0]))
            sigma = row["sigma_input"] if source.parts else row["sigma"]
            opened[place] = _Target(engine.differentiable(shape, samples), sigma)
        found[int(row["index"])] = opened[place]
    return found


def _answering(row: dict[Hashable, Any]) -> int:
    """Which part of a composed classifier answered at an image; 0 where it is not composed."""
    if row["composition"] == "dual":
        return 1 + int(np.argmax(row["selector_selection_counts"]))
    return len(row["selector_sigmas"]) if row["composition"] == "multi-scale" else 0


class _Attacker:
    """Attacks test images of one trial; every attack has its own random stream."""

    def __init__(
        self,
        targets: dict[int, _Target],
        smoothed: SmoothedClassifier,
        settings: CertifiedTrial,
        attack: Attack,
        seeds: tuple[int, int],
        images: NDArray[np.uint8] | StoredImages,
    ) -> None:
        """
        Args:
            seeds: of the attack; of the noise under which the rows were certified.
        """
        self.targets, self.smoothed, self.settings, self.attack = targets, smoothed, settings, attack
        (self.seed, self.noise_seed), self.images = seeds, images

    def answer(self, index: int, label: int, radius: float) -> int:
        """What the smoothed classifier says to the attacked image: a class, or −1."""
        return self.judged(index, self.moved(index, label, radius))

    def judged(self, index: int, moved: Tensor) -> int:
        """What the smoothed classifier says to a moved image: a class, or −1."""
        return self.smoothed.predict_moved(moved, n=self.attack.n, seed=self.noise_seed, index=index)

    def has_fallen(self, index: int, moved: Tensor, predicted: int, answer: int, alpha: float) -> bool:
        """Whether `answer` is more probable than `predicted` at the moved image, by fresh samples."""
        if answer in (predicted, ABSTAIN):
            return False
        if not isinstance(self.smoothed, Smoothed):  # with other samples than those that gave the answer
            fresh = self.noise_seed + 1
            again = self.smoothed.predict_moved(moved, n=JUDGING_SAMPLES, seed=fresh, index=index, alpha=alpha)
            return again not in (predicted, ABSTAIN)
        counts = self.smoothed.class_counts(moved, JUDGING_SAMPLES, self.noise_seed, Role.JUDGE, index)
        for_answer, for_predicted = int(counts[answer]), int(counts[predicted])
        test = binomtest(for_answer, for_answer + for_predicted, 0.5, alternative="greater")
        return bool(test.pvalue <= alpha)

    def radius_again(self, index: int, alpha: float) -> float:
        """What the image itself is certified for by fresh samples; 0: for nothing."""
        settings = CertifySettings(n=JUDGING_SAMPLES, alpha=alpha)
        image = torch.from_numpy(self.images[[index]]).float() / 255
        [certificate] = self.smoothed.certify(image, settings, seed=self.noise_seed + 1, indices=[index])
        return certificate.radius

    def moved(self, index: int, label: int, radius: float) -> Tensor:
        """The attacked image."""
        device = self.smoothed.device
        key = (index, round(1e6 * radius))
        target = self.targets[index]
        stream, steps = NormalStream(self.seed, Role.ATTACK, *key), count()
        image = torch.from_numpy(self.images[index]).float().to(device) / 255

        def noise() -> Tensor:
            samples = self.attack.samples
            return target.sigma * stream.draw(next(steps) * samples, (samples, *image.shape), device)

        return smoothed_pgd(target.model, image, label, radius=radius, steps=self.attack.steps, noise=noise)
