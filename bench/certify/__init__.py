"""From a base classifier to certificates: noise samples, the engine that classifies them, CERTIFY, shards."""
