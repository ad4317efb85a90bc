"""Continued pretraining of a wav2vec 2.0 encoder on unlabeled speech."""
