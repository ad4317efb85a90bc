"""The tables of `ser-ft explore`: rows of text and numbers for the template."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...utils.text import MISSING
from .figures import PlotData
from .findings import FULL_SCALE
from .separability import known_speakers

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]


def emotion_rows(data: PlotData) -> list[Row]:
    """Count the clips of each emotion: a row per corpus and per gender in it, and one for all corpora."""
    rows = []
    for corpus in data.corpora:
        part = data.clips[data.clips["corpus"] == corpus]
        rows.append(_emotion_row(data, corpus, part, main=True))
        if len(data.genders) > 1:
            by_gender = {gender: part[part["gender_label"] == gender] for gender in data.genders}
            rows += [_emotion_row(data, gender, clips) for gender, clips in by_gender.items() if len(clips)]
    return [*rows, _emotion_row(data, "all", data.clips, main=True)] if len(data.corpora) > 1 else rows


def _emotion_row(data: PlotData, name: str, clips: pd.DataFrame, main: bool = False) -> Row:
    counts = clips["emotion"].value_counts().reindex(data.classes, fill_value=0)
    return {"name": name, "main": main, "counts": counts.tolist(), "clips": len(clips)}


def speaker_rows(data: PlotData) -> list[Row]:
    """Summarize the speakers of each corpus: their number, genders, ages and clips per speaker."""
    rows = []
    for corpus in data.corpora:
        part = data.clips[(data.clips["corpus"] == corpus) & known_speakers(data.clips)]
        speakers = part.groupby("speaker")
        counts, ages = speakers.size(), part["age"].dropna()
        genders = speakers["gender"].first().value_counts().sort_index()
        rows.append(
            {
                "corpus": corpus,
                "speakers": len(counts),
                "genders": ", ".join(f"{count} {gender}" for gender, count in genders.items()) or MISSING,
                "ages": _range(ages.min(), ages.max(), "{:.0f}") if len(ages) else MISSING,
                "clips": _range(counts.min(), counts.max(), "{:,}") if len(counts) else MISSING,
                "unknown": int((data.clips["corpus"] == corpus).sum()) - len(part),
            }
        )
    return rows


def level_rows(data: PlotData) -> list[Row]:
    """Summarize durations and levels of each corpus: medians, and the range of the middle 90 %."""
    rows = []
    for corpus in data.corpora:
        part = data.clips[data.clips["corpus"] == corpus]
        seconds = part["duration"]
        low, high = (float(part["level"].quantile(q)) for q in (0.05, 0.95))
        rows.append(
            {
                "corpus": corpus,
                "hours": f"{seconds.sum() / 3600:.2f}",
                "shortest": f"{seconds.min():.2f}",
                "median": f"{seconds.median():.2f}",
                "longest": f"{seconds.max():.2f}",
                "speech": f"{100 * part['speech'].median():.0f} %",
                **{name: f"{part[name].median():.1f}" for name in ("peak", "level", "background")},
                "level_range": _range(low, high, "{:.0f}"),
                "clipped": f"{int((part['peak'] >= FULL_SCALE).sum()):,}",
            }
        )
    return rows


def rate_rows(data: PlotData) -> list[Row]:
    """Count the clips of each corpus by the sampling rate of their files, the most frequent first."""
    rows: list[Row] = []
    for corpus in data.corpora:
        rates = data.clips["sampling_rate"][data.clips["corpus"] == corpus].astype(float)
        counts = rates.value_counts(dropna=False)
        for rate, count in zip(counts.index.to_numpy(dtype=float), counts, strict=True):
            text = "unknown" if np.isnan(rate) else f"{rate:,.0f} Hz"
            rows.append({"corpus": corpus, "rate": text, "clips": count})
    return rows


def pitch_rows(data: PlotData) -> list[Row]:
    """Summarize pitch and level of each emotion (without labels: each folder) and gender: medians over the clips."""
    rows = []
    column, names, colors = data.grouping
    for name in names:
        for gender in data.genders:
            part = data.clips[(data.clips[column] == name) & (data.clips["gender_label"] == gender)]
            if len(part):
                pitch, pitch_range = part["pitch"].median(), part["pitch_range"].median()
                rows.append(
                    {
                        "name": name,
                        "color": colors[name],
                        "gender": gender,
                        "clips": len(part),
                        "pitch": MISSING if np.isnan(pitch) else f"{pitch:.0f}",
                        "pitch_range": MISSING if np.isnan(pitch_range) else f"{pitch_range:.1f}",
                        "voiced": f"{100 * part['voiced'].median():.0f} %",
                        "level": f"{part['level'].median():.1f}",
                        "relative_level": f"{part['relative_level'].median():+.1f}",
                    }
                )
    return rows


def _range(low: float, high: float, form: str) -> str:
    first, last = form.format(low), form.format(high)
    return first if first == last else f"{first} to {last}"
