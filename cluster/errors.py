"""What goes wrong with a cluster, as it is said to the user."""


class ClusterError(RuntimeError):
    """The cluster cannot be reached, does not let us in, or has not the resources; the message is one sentence."""
