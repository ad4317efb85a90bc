"""Corpora, the datasets builder, splits and augmentation."""
