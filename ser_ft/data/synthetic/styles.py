"""The speaking styles of the synthetic voices: how each emotion differs from neutral speech."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SpeakingStyle:
    """A way of speaking, as the difference from the speaker's neutral speech."""

    pitch: float = 0.0  # mean fundamental frequency, semitones
    range: float = 0.0  # height of accents, octaves (1: twice as high)
    slope: float = 0.0  # drift of the fundamental frequency over the utterance, semitones
    final: float = 0.0  # rise of the fundamental frequency at the end, semitones
    tempo: float = 0.0  # octaves (1: twice as fast)
    pause: float = 0.0  # seconds added to each pause
    level: float = 0.0  # dB
    swing: float = 0.0  # loudness of accents, dB
    rd: float = 0.0  # shape of the glottal pulse (Fant's Rd: under 1 pressed, over 1 lax)
    tilt: float = 0.0  # dB per octave above 1 kHz
    breath: float = 0.0  # aspiration, dB
    jitter: float = 0.0  # variation of the period between cycles, %
    shimmer: float = 0.0  # variation of the amplitude between cycles, %
    creak: float = 0.0  # creaky voice at the end, 0 to 1
    tremor: float = 0.0  # semitones at 5 to 8 Hz
    lips: float = 0.0  # shift of all formants, octaves (spread lips: up)
    jaw: float = 0.0  # shift of the first formant, octaves
    precision: float = 0.0  # size of the vowel space, octaves


# The directions (up, down, wide, narrow) follow Juslin & Laukka (2003), Psychological Bulletin 129(5), 770-814,
# Scherer (2003), Speech Communication 40, 227-256, and Banse & Scherer (1996), JPSP 70(3), 614-636; disgust also Murray
# & Arnott (1993), JASA 93(2), 1097-1108; surprise also Scherer & Oshinsky (1977), Motivation and Emotion 1(4), 331-346;
# calm is the first's tenderness. The sizes are our own, chosen so that the classes overlap.
SPEAKING_STYLES: dict[str, SpeakingStyle] = {
    "neutral": SpeakingStyle(),
    "calm": SpeakingStyle(
        pitch=-0.6, range=-0.2, slope=-0.3, final=-0.5, tempo=-0.16, pause=0.03, level=-2.5, swing=-0.8, rd=0.25,
        tilt=-0.8, breath=3, jitter=-0.1, shimmer=-0.5, precision=-0.05,
    ),
    "happy": SpeakingStyle(
        pitch=3.6, range=0.75, slope=0.8, final=1.2, tempo=0.16, pause=-0.02, level=3.2, swing=1.8, rd=-0.1, tilt=0.8,
        breath=-0.5, jitter=-0.1, lips=0.05, jaw=0.06, precision=0.08,
    ),
    "sad": SpeakingStyle(
        pitch=-1.2, range=-0.6, slope=-1.0, final=-1.0, tempo=-0.28, pause=0.06, level=-4.5, swing=-1.5, rd=0.5,
        tilt=-1.6, breath=4, jitter=0.5, shimmer=1.5, creak=0.25, tremor=0.1, lips=-0.02, jaw=-0.06, precision=-0.2,
    ),
    "angry": SpeakingStyle(
        pitch=3.0, range=0.5, slope=-0.5, final=-0.8, tempo=0.18, pause=-0.02, level=6.5, swing=2.8, rd=-0.45, tilt=2.2,
        breath=-4, jitter=0.8, shimmer=2.5, jaw=0.12, precision=0.12,
    ),
    "fear": SpeakingStyle(
        pitch=4.2, range=-0.15, slope=0.8, final=0.8, tempo=0.24, pause=0.01, level=0.5, swing=-0.3, rd=0.15, tilt=0.2,
        breath=3, jitter=0.9, shimmer=2.0, tremor=0.4, lips=0.02, precision=-0.05,
    ),
    "disgust": SpeakingStyle(
        pitch=-1.4, range=0.1, slope=-1.2, final=-1.8, tempo=-0.22, pause=0.03, level=0.4, swing=0.8, rd=-0.3, tilt=0.3,
        jitter=0.9, shimmer=2.0, creak=0.55, lips=-0.05, jaw=0.02, precision=-0.02,
    ),
    "surprise": SpeakingStyle(
        pitch=4.2, range=0.85, slope=2.0, final=4.5, tempo=0.06, level=2.0, swing=1.2, rd=0.1, tilt=0.2, breath=2,
        jaw=0.1, precision=0.05,
    ),
}  # fmt: skip
# Standard deviations between clips. A speaker's own styles deviate from the table by SPEAKER_SPREAD of these.
STYLE_SPREAD = SpeakingStyle(
    pitch=1.1, range=0.3, slope=1.2, final=1.2, tempo=0.1, pause=0.02, level=1.7, swing=1.0, rd=0.2, tilt=0.7,
    breath=1.8, jitter=0.35, shimmer=1.0, creak=0.15, tremor=0.1, lips=0.02, jaw=0.04, precision=0.07,
)  # fmt: skip
SPEAKER_SPREAD = 0.6
MIN_VALUES = {"pause": -0.02, "jitter": -0.5, "shimmer": -2.5, "creak": 0.0, "tremor": 0.0}
