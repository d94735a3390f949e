"""What the sound mode takes off bounds and radii, and the ordinary mode does not."""

from __future__ import annotations

import numpy as np

from results.bounds.lattice import debited, debited_two_sided, distance, lattice_debit
from results.bounds.radius import certified_radius, two_sided_radius

P_LOWER = np.array([0.0, 0.3, 0.5, np.nextafter(0.5, 1), 0.9, 1 - 1e-7])
SIGMAS = np.array([0.12, 0.25, 0.25, 0.5, 1.0, 0.25])
COUNTS = np.array([[90, 10, 0], [40, 30, 30], [100, 0, 0], [50, 50, 0], [0, 0, 100], [99, 0, 1]])


def test_in_the_ordinary_mode_they_stay_to_the_last_bit() -> None:
    bound, radius = debited(P_LOWER, SIGMAS, np.nan)
    assert np.array_equal(bound, P_LOWER)
    assert np.array_equal(radius, certified_radius(P_LOWER, SIGMAS))
    assert (float(debited(0.9, 0.25, np.nan)[0]), debited(0.9, 0.25, [np.nan])[1].shape) == (0.9, (1,))
    selected = COUNTS.argmax(1)
    two_sided = debited_two_sided(COUNTS, selected, 0.001, SIGMAS, np.nan)
    assert np.array_equal(two_sided, two_sided_radius(COUNTS, selected, 0.001, SIGMAS))


def test_each_image_is_debited_as_it_is_alone() -> None:
    """In the same call as others, of the other mode and of other sizes."""
    pixels = np.array([np.nan, 3072.0, 3072.0, np.nan, 150528.0, 3072.0])
    bound, radius = debited(P_LOWER, SIGMAS, pixels)
    selected = COUNTS.argmax(1)
    two_sided = debited_two_sided(COUNTS, selected, 0.001, SIGMAS, pixels)
    for place, (p_lower, sigma, numbers) in enumerate(zip(P_LOWER, SIGMAS, pixels, strict=True)):
        alone = debited(p_lower, sigma, numbers)
        assert (bound[place], radius[place]) == tuple(map(float, alone))
        one = slice(place, place + 1)
        assert two_sided[one] == debited_two_sided(COUNTS[one], selected[one], 0.001, sigma, numbers)
        if np.isfinite(numbers):
            assert bound[place] == max(p_lower - distance(numbers, sigma), 0.0)
            assert radius[place] == max(float(certified_radius(bound[place], sigma)) - lattice_debit(numbers), 0.0)
