"""The corpora that ser_ft reads, one module each."""

from __future__ import annotations

from . import cremad, ravdess, savee, tess
from .base import REASONS, Corpus, Download, Skip, Utterance

CORPORA: dict[str, Corpus] = {
    corpus.name: corpus for corpus in (ravdess.CORPUS, tess.CORPUS, cremad.CORPUS, savee.CORPUS)
}

__all__ = ["CORPORA", "REASONS", "Corpus", "Download", "Skip", "Utterance"]
