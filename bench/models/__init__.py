"""Base classifiers: networks, the linear decomposition before them, their weights on disk, models from elsewhere."""
