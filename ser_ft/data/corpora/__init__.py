"""The corpora that ser_ft reads, one module each."""

from __future__ import annotations

from ...utils.text import nfc
from . import cremad, ravdess, savee, tess
from .base import REASONS, Corpus, Download, Skip, Utterance

CORPORA: dict[str, Corpus] = {
    corpus.name: corpus for corpus in (ravdess.CORPUS, tess.CORPUS, cremad.CORPUS, savee.CORPUS)
}


def normalize_corpus_name(name: str) -> str:
    """Return a known corpus's name in its usual spelling ("CREMA-D" -> "cremad"), and other names in Unicode NFC."""
    plain = name.lower().replace("-", "").replace("_", "")
    return plain if plain in CORPORA else nfc(name)


__all__ = ["CORPORA", "REASONS", "Corpus", "Download", "Skip", "Utterance", "normalize_corpus_name"]
