"""Doubts about a finished run, tried: certify again, attack, measure speed."""
