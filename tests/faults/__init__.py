"""Faults injected into real runs: what a run leaves must not depend on what happened to it.

`python -m tests.faults --seed 1 --faults 110 --out DIR` runs a small grid undisturbed, and again while workers, nodes
and the command itself are killed, workers are stopped, the disk is full, and files are damaged. The same command is
repeated until it succeeds; then both folders are compared. Linux only: processes are found in /proc.
"""
