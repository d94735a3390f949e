"""From a base classifier to certificates: noisy copies, the engine that classifies them, CERTIFY, shards."""
