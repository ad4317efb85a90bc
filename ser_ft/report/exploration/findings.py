"""What a person should know of a data set before training on it, in sentences, from what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ...audio import SAMPLE_RATE
from ...utils.text import count_text, score_text
from .figures import View
from .measurements import Survey
from .separability import NEIGHBOURS, VERSIONS, Separability, known_speakers, one_voice

FULL_SCALE = -0.1  # dBFS from which a peak is taken to be cut off
_UNEVEN = 2.0
_LOUDER, _QUIETER = 6.0, 15.0  # dB between corpora that are worth a sentence
_LONGER = 1.5
_SHORT = 0.5  # seconds
_APART, _GAIN = 0.05, 0.02


def findings(found: Survey, look: View, told: Sequence[Separability]) -> list[str]:
    """Say what stands out, the gravest first; an empty list where nothing does."""
    return [
        *meaning(told)[:1],
        *_speakers(look),
        *_emotions(look),
        *_levels(look),
        *_lengths(look),
        *_rates(look),
        *_left_out(found),
    ]


def meaning(told: Sequence[Separability]) -> list[str]:
    """Say what the map means: which trait shows most, what follows, and what each speaker's own scale brings."""
    known = {item.trait: item for item in told}
    if "emotion" not in known:
        return []
    emotion = known["emotion"]
    other = known.get("corpus") or known.get("speaker")
    lines = []
    if other is not None:
        gap = other.share() - emotion.share()
        how = "more than" if gap > _APART else "less than" if gap < -_APART else "about as much as"
        shows = f"The {other.trait} shows {how} the emotion"
        if max(other.share(), emotion.share()) < _APART:
            shows = f"Neither the {other.trait} nor the emotion shows"
        lines.append(
            f"{shows}: from the {NEIGHBOURS} clips most like it, a clip's {other.trait} is found with "
            f"{_scored(other)}, its emotion with {_scored(emotion)}."
        )
        if gap > _APART:
            lines.append(_ADVICE[other.trait])
    own = emotion.uar.get(VERSIONS[2])
    if own is not None and own > emotion.uar[VERSIONS[0]] + _GAIN:
        lines.append(
            "With each speaker's numbers standardised by that speaker's own clips, the emotion is found with UAR "
            f"{score_text(own)}: much of what differs between clips is voice and recording. It takes several clips of "
            "a speaker, with emotions mixed, but no labels."
        )
    return lines


_ADVICE = {
    "corpus": "Where emotions are spread unevenly over the corpora, a model can answer by the corpus instead: balance "
    "batches by corpus and emotion, and look at the results of each corpus by itself.",
    "speaker": "A model is easily taken in by voices that it knows: test it on speakers that it never heard.",
}


def _speakers(look: View) -> Iterator[str]:
    known = known_speakers(look.clips)
    if not look.classes:
        return
    for corpus in look.corpora:
        part = look.clips[look.clips["corpus"] == corpus]
        there = known[(look.clips["corpus"] == corpus).to_numpy()]
        if not there.all():
            some = count_text(int((~there).sum()), "clip")
            yield f"In {corpus}, the speakers of {some} are not known: no split can keep them apart."
        elif one_voice(part["speaker"]):
            share = part["speaker"].value_counts(normalize=True).iloc[0]
            how = "all clips" if share == 1 else f"{100 * share:.1f} % of the clips"
            yield f"In {corpus}, {how} are one speaker's: how other voices sound cannot be learned or tested there."


def _emotions(look: View) -> Iterator[str]:
    if not look.classes:
        return
    counts = look.clips["emotion"].value_counts()
    most, least = counts.index[0], counts.index[-1]
    if counts[most] >= _UNEVEN * counts[least]:
        both = f"{counts[most]:,} and {counts[least]:,}"
        yield f"There are {counts[most] / counts[least]:.1f} times as many clips of {most} as of {least} ({both})."
    homes: dict[tuple[str, ...], list[str]] = {}
    for name in look.classes:
        of = set(look.clips["corpus"][look.clips["emotion"] == name])
        if len(of) < len(look.corpora):
            homes.setdefault(tuple(corpus for corpus in look.corpora if corpus in of), []).append(name)
    for home, names in homes.items():
        yield f"Only {_and(home)} {'has' if len(home) == 1 else 'have'} {_and(names)}."


def _levels(look: View) -> Iterator[str]:
    if len(look.corpora) > 1:
        loud, quiet, gap = _extremes(look, "level")
        if gap >= _LOUDER:
            yield f"The speech of {loud} is {gap:.0f} dB louder than that of {quiet}."
        loud, quiet, gap = _extremes(look, "background")
        if gap >= _QUIETER:
            several = {"corpus": "corpora", "folder": "folders"}[look.group]
            yield f"Behind the speech, {quiet} is {gap:.0f} dB quieter than {loud}: pauses tell the {several} apart."
    full = int((look.clips["peak"] >= FULL_SCALE).sum())
    if full:
        yield f"{count_text(full, 'clip')} {'reaches' if full == 1 else 'reach'} full scale: peaks may be cut off."


def _lengths(look: View) -> Iterator[str]:
    if len(look.corpora) > 1:
        long, short, gap = _extremes(look, "duration")
        least = float(look.clips["duration"][look.clips["corpus"] == short].median())
        if gap >= (_LONGER - 1) * least:
            yield f"The clips of {long} are {1 + gap / least:.1f} times as long as those of {short}."
    few = int((look.clips["duration"] < _SHORT).sum())
    if few:
        yield f"{count_text(few, 'clip')} {'is' if few == 1 else 'are'} shorter than half a second."


def _rates(look: View) -> Iterator[str]:
    rates = look.clips["sampling_rate"].dropna().astype(np.int64)
    if rates.nunique() > 1:
        counts = rates.value_counts()
        listed = [f"{rate:,} Hz ({counts[rate]:,})" for rate in counts.index[:6]]
        yield f"The clips were found at several sampling rates: {', '.join(listed)}."
    low = int((rates < SAMPLE_RATE).sum())
    if low:
        some = f"{count_text(low, 'clip')} {'was' if low == 1 else 'were'}"
        yield f"{some} found at a rate under 16 kHz: their upper band is empty."


def _left_out(found: Survey) -> Iterator[str]:
    if found.skipped:
        count = len(found.skipped)
        yield f"{count_text(count, 'file')} {'was' if count == 1 else 'were'} left out (see below)."


def _extremes(look: View, measure: str) -> tuple[str, str, float]:
    """Return the corpora with the highest and the lowest median of a measure, and by how much they differ."""
    middle = look.clips.groupby("corpus")[measure].median().sort_values()
    return str(middle.index[-1]), str(middle.index[0]), float(middle.iloc[-1] - middle.iloc[0])


def _scored(item: Separability) -> str:
    of = f", of {_and(item.classes)}" if item.trait == "corpus" and item.left_out else ""
    return f"UAR {score_text(item.uar[VERSIONS[0]])} (guessing: {score_text(item.guess)}{of})"


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
