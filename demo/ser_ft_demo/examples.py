"""The examples that come with the page: synthetic voices, made when it starts."""

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
_PAUSE = 0.4  # seconds
# Who speaks (0: the first channel), how, and how often: the customer grows angry, and calms down.
_CALL = (
    (0, "calm", 2), (1, "neutral", 3), (0, "neutral", 2), (1, "angry", 5), (0, "calm", 2), (1, "angry", 4),
    (0, "neutral", 3), (1, "sad", 3), (0, "calm", 2), (1, "neutral", 3), (0, "happy", 2), (1, "happy", 2),
)  # fmt: skip


def make_clips(folder: Path) -> list[tuple[str, Path]]:
    """Write a clip of each of some emotions: a label and a file each."""
    made = []
    for number, (emotion, voice) in enumerate(_CLIPS):
        file = folder / f"synthetic-{emotion}.wav"
        soundfile.write(file, _said(emotion, voice, 2, number), SAMPLE_RATE, subtype="PCM_16")
        who = "woman" if voice is _WOMAN else "man"
        made.append((f"{emotion}, synthetic {who}", file))
    return made


def make_call(folder: Path) -> Path:
    """Write a conversation: 16 kHz, an agent in the first channel and a customer in the second."""
    file, turns, at = folder / "synthetic-call.flac", [], _PAUSE
    for number, (channel, emotion, times) in enumerate(_CALL):
        said = _said(emotion, (_WOMAN, _MAN)[channel], times, 100 + number)
        turns.append((channel, round(at * SAMPLE_RATE), said))
        at += len(said) / SAMPLE_RATE + _PAUSE
    sound = np.zeros((round(at * SAMPLE_RATE), 2), np.float32)
    for channel, start, said in turns:
        sound[start : start + len(said), channel] = said
    soundfile.write(file, sound, SAMPLE_RATE, subtype="PCM_16")
    return file


def _said(emotion: str, voice: Voice, times: int, seed: int) -> np.ndarray:
    """Speak the sentences in turn, so many times in all: float32 at 16 kHz, shape (samples,)."""
    rng, pause = np.random.default_rng(seed), np.zeros(round(_PAUSE * SAMPLE_RATE), np.float32)
    said = [synthesize(emotion, voice, _SENTENCES[number % 2], rng, 1.2) for number in range(times)]
    return np.concatenate([part for one in said for part in (one, pause)][:-1])
