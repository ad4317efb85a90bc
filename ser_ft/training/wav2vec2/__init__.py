"""Continued pretraining of wav2vec 2.0 encoders on unlabelled recordings."""
