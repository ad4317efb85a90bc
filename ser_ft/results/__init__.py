"""What a model's answers are worth: predictions, metrics with their intervals, and the run folder that holds them."""
