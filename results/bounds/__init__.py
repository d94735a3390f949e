"""The mathematics of a certificate: from counts to a lower bound on a probability, and from that to a radius."""
