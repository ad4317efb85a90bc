"""Augmentation of waveforms and spectrograms, applied to training clips only."""
