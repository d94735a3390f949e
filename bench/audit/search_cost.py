"""What a search costs: of a training in the unit of its budget, and of all in seconds on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from bench.audit.forecast import MeasuredRates, count_devices, count_passes
from bench.data import count_images, load_images
from bench.machine.devices import own_device
from bench.settings.trial import Trial

FORWARD = 1 / 3
"""Of what a pass forward and backward costs, one that is forward alone; the usual reckoning."""


def training_cost(trial: Trial) -> float:
    """Passes of a training image through the network until the trial is trained, forward and backward, for the
    parameters or for an attack; those that are forward alone count a third. All members are counted, a teacher is not:
    all configurations have it in common."""
    images = partial(load_images, trial.data, "train", trial.dataset)
    passes = [count_passes(each, 1, 0, certify=False, like=images) for each in trial.members or [trial]]
    return sum(each.train + each.attack + FORWARD * each.survey for each in passes)


class SearchForecast:
    """Seconds on this machine, all its accelerators computing."""

    def __init__(self) -> None:
        device = own_device()
        self._devices = count_devices(device)
        self._rates = MeasuredRates(device)

    def seconds(self, trials: Sequence[Trial], cost: float) -> float:
        """Of a search; measures a network that it has not measured before, for some seconds.

        Args:
            trials: its rungs, of one method at one σ.
            cost: of all their trainings, as `training_cost` has it, less what is carried over.
        """
        first = trials[0]
        train_set = load_images(first.data, "train", first.dataset).evenly(first.train.images)
        images, held_out = len(train_set), count_images(first.data, "test")
        rates = self._rates.of(first, train_set)
        networks = max(1, len(first.members))
        teachers = {trial.teacher: trial.objective.teacher_copies for trial in trials if trial.teacher}
        trained = cost + sum(map(training_cost, teachers))
        surveyed = images * sum(teachers.values()) + held_out * networks * _epochs(trials)
        certified = held_out * networks * len(trials) * (first.certify.n0 + first.certify.n)
        seconds = images * trained / rates.train + surveyed / rates.survey + certified / rates.certify
        return seconds / self._devices


def _epochs(trials: Sequence[Trial]) -> int:
    """That are trained, after each of which the noisy accuracy is found: a rung goes on from the one below, unless
    there is a teacher."""
    if trials[0].teacher:
        return sum(trial.train.epochs for trial in trials)
    longest: dict[str, int] = {}
    for trial in trials:
        options = str(sorted(trial.options.items()))
        longest[options] = max(trial.train.epochs, longest.get(options, 0))
    return sum(longest.values())
