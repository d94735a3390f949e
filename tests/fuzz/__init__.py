"""Bad input by machine: grids, logs, files of runs and command lines, mutated and given to the real commands.

python -m tests.fuzz --seed 1 --minutes 10     # longer, and with other inputs, than the tests do
"""
