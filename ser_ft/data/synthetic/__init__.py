"""Synthetic voices: a small formant synthesizer, and miniature corpora made with it."""
