"""The machine under a process: its accelerator, its energy, and the random streams that are drawn on it."""
