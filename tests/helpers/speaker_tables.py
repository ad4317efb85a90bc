"""Tables of the four corpora's speakers, without audio, and a check of splits by speaker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import datasets
import pandas as pd

from ser_ft.data.splits import PARTS, Split
from ser_ft.labels import EMOTION_NAMES

SPEAKERS = {
    "ravdess": [f"{actor:02d}" for actor in range(1, 25)],
    "tess": ["OAF", "YAF"],
    "cremad": [str(actor) for actor in range(1001, 1092)],
    "savee": ["DC", "JE", "JK", "KL"],
}


def table_of(speakers: Mapping[str, Sequence[str]], clips: int = 2) -> datasets.Dataset:
    """Return a table of some speakers as `load_corpora` does, without audio, with `clips` clips per emotion."""
    rows = []
    for corpus, names in speakers.items():
        absent = {"ravdess": (), "cremad": ("calm", "surprise")}.get(corpus, ("calm",))
        for place, name in enumerate(names):
            for label, emotion in enumerate(EMOTION_NAMES):
                # Some speakers have fewer clips, as in CREMA-D.
                num_takes = clips - (corpus == "cremad" and place % 3 == 0 and emotion == "neutral")
                ids = [f"{corpus}-{name}-{emotion}-{take}" for take in range(num_takes if emotion not in absent else 0)]
                gender = "male" if place % 2 else "female"
                rows += [(clip, f"{corpus}-{name}", corpus, label, gender) for clip in ids]
    frame = pd.DataFrame(rows, columns=["id", "speaker", "corpus", "emotion", "gender"])
    table = datasets.Dataset.from_pandas(frame)
    return table.cast_column("emotion", datasets.ClassLabel(names=list(EMOTION_NAMES)))


def corpora_table(*corpora: str) -> datasets.Dataset:
    return table_of({name: SPEAKERS[name] for name in corpora})


def check_split(split: Split, table: datasets.Dataset) -> None:
    """Assert that the parts have their own speakers' clips, and share no clip and no speaker."""
    speaker_of = dict(zip(table["id"], table["speaker"], strict=True))
    rows = split.row_indices(table)
    for part in PARTS:
        assert [table["id"][int(row)] for row in rows[part][:3]] == list(split.parts[part][:3])
        assert {speaker_of[clip] for clip in split.parts[part]} == set(split.speakers[part])
    assert len(set().union(*split.parts.values())) == sum(map(len, split.parts.values()))
    assert len(set().union(*split.speakers.values())) == sum(map(len, split.speakers.values()))
    assert not split.leaking
    assert "LEAKING" not in split.describe()
