"""Batches of clips: feature caches, hidden states of frozen layers, batch sampling and targets."""
