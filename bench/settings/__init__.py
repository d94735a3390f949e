"""What a user asks for: a grid, its trials, and the options of a run. Neither torch nor ray is imported here."""
