"""Notable properties of a data set as sentences: what to know before training on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ...audio import SAMPLE_RATE
from ...utils.text import count_text, score_text
from .figures import PlotData
from .measurements import MeasuredClips
from .separability import NUM_NEIGHBORS, OVERALL, PER_SPEAKER, Separability, is_single_speaker, known_speakers

FULL_SCALE = -0.1  # dBFS from which a peak is taken to be clipped
_IMBALANCE = 2.0
_LEVEL_GAP, _BACKGROUND_GAP = 6.0, 15.0  # dB between corpora that are worth a sentence
_DURATION_RATIO = 1.5
_SHORT_SECONDS = 0.5
_SCORE_GAP, _SCORE_GAIN = 0.05, 0.02


def find_notable(measured: MeasuredClips, data: PlotData, results: Sequence[Separability]) -> list[str]:
    """Return what is notable about a data set, the most serious first; an empty list if nothing is."""
    return [
        *interpret_separability(results)[:1],
        *(_speakers(data) if data.classes else ()),
        *(_emotions(data) if data.classes else ()),
        *_levels(data),
        *_durations(data),
        *_sampling_rates(data),
        *_skipped(measured),
    ]


def interpret_separability(results: Sequence[Separability]) -> list[str]:
    """Return which trait the features show most, what follows from it, and what normalizing each speaker brings."""
    by_trait = {result.trait: result for result in results}
    if "emotion" not in by_trait:
        return []
    emotion = by_trait["emotion"]
    lines = []
    if other := by_trait.get("corpus") or by_trait.get("speaker"):
        gap = other.chance_corrected - emotion.chance_corrected
        how = "more than" if gap > _SCORE_GAP else "less than" if gap < -_SCORE_GAP else "about as much as"
        claim = f"The features show the {other.trait} {how} the emotion"
        if max(other.chance_corrected, emotion.chance_corrected) < _SCORE_GAP:
            claim = f"The features show neither the {other.trait} nor the emotion"
        lines.append(
            f"{claim}: from its {NUM_NEIGHBORS} nearest neighbors, a clip's {other.trait} is predicted with "
            f"{_score_with_chance(other)}, its emotion with {_score_with_chance(emotion)}."
        )
        if gap > _SCORE_GAP:
            lines.append(_ADVICE[other.trait])
    normalized = emotion.uar.get(PER_SPEAKER)
    if normalized is not None and normalized > emotion.uar[OVERALL] + _SCORE_GAIN:
        lines.append(
            "If the features are normalized within each speaker, the emotion is predicted with UAR "
            f"{score_text(normalized)}: much of the difference between clips is voice and recording. This needs "
            "several clips of a speaker with mixed emotions, but no labels."
        )
    return lines


_ADVICE = {
    "corpus": "If emotions are distributed unevenly over the corpora, a model can predict the corpus instead: balance "
    "batches by corpus and emotion, and look at the results of each corpus separately.",
    "speaker": "A model easily learns voices instead of emotions: test it on speakers that it was not trained on.",
}


def _speakers(data: PlotData) -> Iterator[str]:
    known = known_speakers(data.clips)
    for corpus in data.corpora:
        in_corpus = data.clips["corpus"] == corpus
        unknown = int((~known[in_corpus.to_numpy()]).sum())
        speakers = data.clips["speaker"][in_corpus]
        if unknown:
            yield f"In {corpus}, the speakers of {count_text(unknown, 'clip')} are unknown: no split can separate them."
        elif is_single_speaker(speakers):
            fraction = speakers.value_counts(normalize=True).iloc[0]
            amount = "all clips" if fraction == 1 else f"{100 * fraction:.1f} % of the clips"
            yield f"In {corpus}, {amount} are from one speaker: nothing about other voices can be learned or tested."


def _emotions(data: PlotData) -> Iterator[str]:
    counts = data.clips["emotion"].value_counts()
    most, least = counts.index[0], counts.index[-1]
    if counts[most] >= _IMBALANCE * counts[least]:
        ratio, numbers = counts[most] / counts[least], f"{counts[most]:,} and {counts[least]:,}"
        yield f"There are {ratio:.1f} times as many clips of {most} as of {least} ({numbers})."
    emotions_of: dict[tuple[str, ...], list[str]] = {}
    for name in data.classes:
        present = set(data.clips["corpus"][data.clips["emotion"] == name])
        if len(present) < len(data.corpora):
            emotions_of.setdefault(tuple(corpus for corpus in data.corpora if corpus in present), []).append(name)
    for corpora, names in emotions_of.items():
        yield f"Only {_enumerate(corpora)} {'has' if len(corpora) == 1 else 'have'} {_enumerate(names)}."


def _levels(data: PlotData) -> Iterator[str]:
    if len(data.corpora) > 1:
        loud, quiet, gap = _extremes(data, "level")
        if gap >= _LEVEL_GAP:
            yield f"The speech of {loud} is {gap:.0f} dB louder than that of {quiet}."
        loud, quiet, gap = _extremes(data, "background")
        if gap >= _BACKGROUND_GAP:
            plural = {"corpus": "corpora", "folder": "folders"}[data.group_name]
            yield f"The background of {quiet} is {gap:.0f} dB quieter than that of {loud}: pauses reveal the {plural}."
    if clipped := int((data.clips["peak"] >= FULL_SCALE).sum()):
        yield f"{count_text(clipped, 'clip')} {'reaches' if clipped == 1 else 'reach'} full scale and may be clipped."


def _durations(data: PlotData) -> Iterator[str]:
    if len(data.corpora) > 1:
        longest, shortest, gap = _extremes(data, "duration")
        median = float(data.clips["duration"][data.clips["corpus"] == shortest].median())
        if gap >= (_DURATION_RATIO - 1) * median:
            yield f"The clips of {longest} are {1 + gap / median:.1f} times as long as those of {shortest}."
    if short := int((data.clips["duration"] < _SHORT_SECONDS).sum()):
        yield f"{count_text(short, 'clip')} {'is' if short == 1 else 'are'} shorter than half a second."


def _sampling_rates(data: PlotData) -> Iterator[str]:
    rates = data.clips["sampling_rate"].dropna().astype(np.int64)
    if rates.nunique() > 1:
        counts = rates.value_counts()
        listing = [f"{rate:,} Hz ({counts[rate]:,})" for rate in counts.index[:6]]
        yield f"The files have several sampling rates: {', '.join(listing)}."
    if low := int((rates < SAMPLE_RATE).sum()):
        yield f"{count_text(low, 'clip')} {'has' if low == 1 else 'have'} a sampling rate below 16 kHz."


def _skipped(measured: MeasuredClips) -> Iterator[str]:
    if measured.skipped:
        count = len(measured.skipped)
        yield f"{count_text(count, 'file')} {'was' if count == 1 else 'were'} skipped (see below)."


def _extremes(data: PlotData, measure: str) -> tuple[str, str, float]:
    """Return the corpora with the highest and the lowest median of a measure, and the difference."""
    medians = data.clips.groupby("corpus")[measure].median().sort_values()
    return str(medians.index[-1]), str(medians.index[0]), float(medians.iloc[-1] - medians.iloc[0])


def _score_with_chance(result: Separability) -> str:
    classes = f", of {_enumerate(result.classes)}" if result.trait == "corpus" and result.excluded else ""
    return f"UAR {score_text(result.uar[OVERALL])} (chance: {score_text(result.chance)}{classes})"


def _enumerate(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
