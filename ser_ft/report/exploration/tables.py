"""The tables of `ser-ft explore`: rows of words and numbers, as they are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...utils.text import MISSING
from .figures import View
from .findings import FULL_SCALE
from .separability import known_speakers

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]


def emotion_rows(look: View) -> list[Row]:
    """Count clips: a row for each corpus and voice in it, and one for all of them."""
    rows = []
    for corpus in look.corpora:
        part = look.clips[look.clips["corpus"] == corpus]
        rows.append(_counted(look, corpus, part, main=True))
        if part["voice"].nunique() > 1 or len(look.voices) > 1:
            rows += [_counted(look, voice, of) for voice in look.voices if len(of := part[part["voice"] == voice])]
    return [*rows, _counted(look, "all", look.clips, main=True)] if len(look.corpora) > 1 else rows


def _counted(look: View, name: str, part: pd.DataFrame, main: bool = False) -> Row:
    counts = part["emotion"].value_counts()
    return {"name": name, "main": main, "counts": [int(counts.get(one, 0)) for one in look.classes], "clips": len(part)}


def speaker_rows(look: View) -> list[Row]:
    """Say who speaks in each corpus: how many, women and men, ages, and how many clips each has."""
    rows = []
    for corpus in look.corpora:
        part = look.clips[(look.clips["corpus"] == corpus) & known_speakers(look.clips)]
        of = part.groupby("speaker")
        counts, voices, ages = of.size(), of["gender"].first().value_counts().sort_index(), part["age"].dropna()
        rows.append(
            {
                "corpus": corpus,
                "speakers": len(counts),
                "voices": ", ".join(f"{count} {voice}" for voice, count in voices.items()) or MISSING,
                "ages": _range(ages.min(), ages.max(), "{:.0f}") if len(ages) else MISSING,
                "clips": _range(counts.min(), counts.max(), "{:,}") if len(counts) else MISSING,
                "unknown": int((look.clips["corpus"] == corpus).sum()) - len(part),
            }
        )
    return rows


def level_rows(look: View) -> list[Row]:
    """Sum up durations and levels of each corpus: medians, and the middle 90 %."""
    rows = []
    for corpus in look.corpora:
        part = look.clips[look.clips["corpus"] == corpus]
        seconds = part["duration"]
        low, high = (float(part["level"].quantile(share)) for share in (0.05, 0.95))
        rows.append(
            {
                "corpus": corpus,
                "hours": f"{seconds.sum() / 3600:.2f}",
                "shortest": f"{seconds.min():.2f}",
                "median": f"{seconds.median():.2f}",
                "longest": f"{seconds.max():.2f}",
                "speech": f"{100 * part['speech'].median():.0f} %",
                **{name: f"{part[name].median():.1f}" for name in ("peak", "level", "background")},
                "spread": _range(low, high, "{:.0f}"),
                "full": f"{int((part['peak'] >= FULL_SCALE).sum()):,}",
            }
        )
    return rows


def rate_rows(look: View) -> list[Row]:
    """Count the clips of each corpus by the sampling rate that they were found at, the commonest first."""
    rates = look.clips["sampling_rate"]
    counts = look.clips.assign(rate=rates).groupby(["corpus", "rate"], dropna=False).size().reset_index(name="clips")
    order = {corpus: place for place, corpus in enumerate(look.corpora)}
    counts = counts.sort_values(["clips"], ascending=False).sort_values(
        "corpus", key=lambda names: names.map(order), kind="stable"
    )
    return [
        {
            "corpus": row["corpus"],
            "rate": "unknown" if np.isnan(row["rate"]) else f"{row['rate']:,.0f} Hz",
            "clips": row["clips"],
        }
        for row in counts.to_dict("records")
    ]


def voice_rows(look: View) -> list[Row]:
    """Sum up pitch and level of each emotion (of each folder, without labels) and voice: medians over the clips."""
    rows = []
    column, names, fills = look.kinds
    for name in names:
        of = look.clips[look.clips[column] == name]
        for voice in look.voices:
            part = of[of["voice"] == voice]
            if len(part):
                pitch, extent = part["pitch"].median(), part["pitch_range"].median()
                rows.append(
                    {
                        "name": name,
                        "colour": fills[name],
                        "voice": voice,
                        "clips": len(part),
                        "pitch": MISSING if np.isnan(pitch) else f"{pitch:.0f}",
                        "range": MISSING if np.isnan(extent) else f"{extent:.1f}",
                        "voiced": f"{100 * part['voiced'].median():.0f} %",
                        "level": f"{part['level'].median():.1f}",
                        "beside": f"{part['beside'].median():+.1f}",
                    }
                )
    return rows


def _range(low: float, high: float, form: str) -> str:
    ends = (form.format(low), form.format(high))
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)
