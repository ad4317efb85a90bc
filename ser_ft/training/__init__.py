"""Training: the loops, what is trained of a model, checkpoints, run folders, and sweeps."""
