"""Numbers of merged certificates: metrics, intervals, paired comparisons, budgets, published numbers."""
