"""Doubts about a run, or about a machine, tried: certify again, attack, measure speed, say what a grid will cost."""
