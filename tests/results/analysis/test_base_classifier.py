from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from results.analysis.base_classifier import CLEAN, NOISY, base_accuracy, has_base_answers, suspicions


def rows(clean: float, noisy: float, images: int = 500, classes: int = 10, method: str = "theirs") -> pd.DataFrame:
    """Rows of a base classifier with those accuracies, to the next image."""
    random = np.random.default_rng(0)
    label = np.arange(images) % classes
    right = np.arange(images)[:, None] < np.round(np.array([clean, noisy]) * images)
    answers = np.where(right, label[:, None], (label[:, None] + random.integers(1, classes, (images, 2))) % classes)
    frame = pd.DataFrame({"method": method, "sigma": 0.5, "seed": 0, "index": np.arange(images), "label": label})
    frame[CLEAN], frame[NOISY], frame["selected"] = *answers.T, answers[:, 0]
    frame["counts"] = [[0] * classes for _ in range(images)]
    return frame


def test_accuracies_are_of_the_rows_and_unknown_of_imported_ones() -> None:
    own = rows(0.9, 0.25, images=40)
    assert (base_accuracy(own, CLEAN), base_accuracy(own, NOISY)) == (0.9, 0.25)
    own[NOISY] = own[NOISY].astype(float).where(own["index"] > 0)
    assert not has_base_answers(own)
    assert np.isnan(base_accuracy(own, CLEAN))


@pytest.mark.parametrize(
    ("clean", "noisy", "images", "classes", "word"),
    [
        (0.93, 0.10, 500, 10, "not trained with this noise"),
        (0.76, 0.004, 500, 1000, "not trained with this noise"),
        (0.11, 0.09, 500, 10, "numbered otherwise"),
        (0.0, 0.0, 500, 10, "numbered otherwise"),
        (0.83, 0.75, 500, 10, ""),  # trained with noise
        (0.93, 0.30, 500, 10, ""),  # badly
        (0.30, 0.10, 500, 10, ""),  # who knows
        (0.76, 0.08, 500, 1000, ""),  # far above chance
        (0.95, 0.50, 500, 2, "not trained with this noise"),
        (0.93, 0.10, 20, 10, ""),  # too few to tell
    ],
)
def test_what_the_accuracies_give_away(clean: float, noisy: float, images: int, classes: int, word: str) -> None:
    found = suspicions(rows(clean, noisy, images, classes))
    assert len(found) == bool(word)
    if word:
        assert word in found[0]
        assert f"theirs at σ = 0.5: the base classifier is right on {100 * clean:.1f}\u00a0%" in found[0]


def test_each_method_is_judged_alone_and_the_most_frequent_label_is_chance() -> None:
    bad, good = rows(0.9, 0.1, method="bad"), rows(0.9, 0.8, method="good")
    [sentence] = suspicions(pd.concat([bad, good]))
    assert sentence.startswith("bad at")
    constant = rows(0.0, 0.0, images=3000)
    constant[["label", CLEAN, NOISY]] = 0
    constant.loc[constant["index"] % 3 == 0, "label"] = 1  # two thirds right, by one answer to all
    [sentence] = suspicions(constant)
    assert "chance is 66.7" in sentence
