"""From trials to a finished run: what is left, what a worker does, how far a run is; on a cluster or in one process."""
