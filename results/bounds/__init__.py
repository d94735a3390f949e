"""The mathematics of a certificate: from counts to a lower bound on a probability, and from that to a radius.

Its usual numbers are those of Cohen, Rosenfeld & Kolter 2019 (their section 4).
"""

N0 = 100
"""Noise samples that select the class."""
N = 100_000
"""Noise samples that estimate its probability."""
ALPHA = 0.001
"""Probability that a certificate is wrong."""
