"""The mathematics of a certificate: from counts to a lower bound on a probability, and from that to a radius.

Its usual numbers are those of Cohen, Rosenfeld & Kolter 2019 (their section 4).
"""

N0 = 100
"""Noise samples that select the class."""
N = 100_000
"""Noise samples that estimate its probability."""
ALPHA = 0.001
"""Probability that a certificate is wrong."""
LOOKING = 0.1
"""The share of alpha for bounds at any time (`results.bounds.anytime`); the rest is for sizes fixed beforehand."""


def shares(composition: str, parts: int) -> int:
    """The number of bounds that share the alpha of a composed certificate (`results.bounds.composition`).

    Args:
        parts: the selector and its classifiers, or the scales.
    """
    return 2 if composition == "dual" else 2 * parts - 1
