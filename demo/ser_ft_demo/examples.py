"""The page's example recordings: synthetic voices, generated when the page starts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from ser_ft.audio import SAMPLE_RATE
from ser_ft.data.synthetic.synthesizer import Voice, synthesize

_SENTENCES = (
    "k ih1 d z | aa r t ao1 k ih ng b ay dh ax d ao1 r",
    "d ao1 g z | aa r s ih1 t ih ng b ay dh ax d ao1 r",
)
_WOMAN, _MAN = Voice(f0=205.0, tract=1.16, seed=1), Voice(f0=115.0, tract=1.0, seed=2)
_CLIPS = (("neutral", _MAN), ("happy", _WOMAN), ("sad", _WOMAN), ("angry", _MAN), ("fear", _WOMAN))
_PAUSE_SECONDS = 0.4
# Channel, emotion and number of sentences of each turn: the second speaker becomes angry and calms down.
_TURNS = (
    (0, "calm", 2), (1, "neutral", 3), (0, "neutral", 2), (1, "angry", 5), (0, "calm", 2), (1, "angry", 4),
    (0, "neutral", 3), (1, "sad", 3), (0, "calm", 2), (1, "neutral", 3), (0, "happy", 2), (1, "happy", 2),
)  # fmt: skip


def write_clips(folder: Path) -> list[tuple[str, Path]]:
    """Write one clip for each of several emotions, and return label and file of each."""
    clips = []
    for seed, (emotion, voice) in enumerate(_CLIPS):
        file = folder / f"synthetic-{emotion}.wav"
        soundfile.write(file, _speak(emotion, voice, 2, seed), SAMPLE_RATE, subtype="PCM_16")
        clips.append((f"{emotion}, synthetic {'woman' if voice is _WOMAN else 'man'}", file))
    return clips


def write_conversation(folder: Path) -> Path:
    """Write a conversation of two speakers, one per channel, at 16 kHz."""
    file, turns, seconds = folder / "synthetic-conversation.flac", [], _PAUSE_SECONDS
    for number, (channel, emotion, num_sentences) in enumerate(_TURNS):
        speech = _speak(emotion, (_WOMAN, _MAN)[channel], num_sentences, 100 + number)
        turns.append((channel, round(seconds * SAMPLE_RATE), speech))
        seconds += len(speech) / SAMPLE_RATE + _PAUSE_SECONDS
    samples = np.zeros((round(seconds * SAMPLE_RATE), 2), np.float32)
    for channel, start, speech in turns:
        samples[start : start + len(speech), channel] = speech
    soundfile.write(file, samples, SAMPLE_RATE, subtype="PCM_16")
    return file


def _speak(emotion: str, voice: Voice, num_sentences: int, seed: int) -> np.ndarray:
    """Return spoken sentences with pauses between them: float32 at 16 kHz, shape (samples,)."""
    rng, pause = np.random.default_rng(seed), np.zeros(round(_PAUSE_SECONDS * SAMPLE_RATE), np.float32)
    sentences = [synthesize(emotion, voice, _SENTENCES[number % 2], rng, 1.2) for number in range(num_sentences)]
    return np.concatenate([part for sentence in sentences for part in (sentence, pause)][:-1])
