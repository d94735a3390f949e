"""One training loop for every method: batches, augmentation, the loop, and how it goes on after an interruption."""
