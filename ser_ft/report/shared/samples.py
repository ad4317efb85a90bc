"""Clips to show from a run's predictions: which, with which probabilities, and their sound."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ... import audio
from ...labels import label_color
from ...utils.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset

LONGEST = 12.0  # seconds of a clip that go into a report
_MOST_BARS = 10
_SAME_SECONDS = 1e-3


@dataclass(frozen=True)
class Bar:
    """A class's probability, and the class's colour."""

    name: str
    share: float
    label_color: str


@dataclass(frozen=True)
class Sample:
    """A clip, what it is and what it was taken for.

    Attributes:
        bars: a probability per class, in the classes' order; the ten highest where there are more.
        voice: speaker, gender and intensity in a line.
        sound: its WAV file as a data URI, or None. cut: its length in seconds where only the beginning is in it.
    """

    id: str
    corpus: str
    voice: str
    label: str
    recognised: str
    bars: tuple[Bar, ...]
    sound: str | None = None
    cut: float | None = None

    @property
    def right(self) -> bool:
        """Whether the clip was recognised."""
        return self.label == self.recognised


def check_same(clips: pd.DataFrame, data: Dataset) -> None:
    """Refuse data whose voices are not those that were judged.

    Args:
        clips: that were judged, columns id and duration. data: a prepared table, columns id and, where known, duration.

    Raises:
        InputError: it holds none of them, or clips of other lengths under their names.
    """
    ours = clips.drop_duplicates("id").set_index("id")["duration"]
    if not ours.index.isin(data["id"]).any():
        raise InputError("--data: was not what the runs were made from: it holds none of their clips")
    if "duration" not in data.column_names:
        return
    theirs = data.select_columns(["id", "duration"]).to_pandas().set_index("id")["duration"]
    gap = (theirs.reindex(ours.index) - ours).abs().dropna()
    if (gap > _SAME_SECONDS).any():
        raise InputError(f"--data: was not what the runs were made from: {gap.idxmax()} has another length there")


def choose(predictions: pd.DataFrame, classes: Sequence[str], part: str, count: int) -> pd.DataFrame:
    """Choose clips of a part, half of them recognised and half not, spread over the true classes.

    The choice depends on the clips' ids alone: the same predictions give the same clips. Where there are too few
    of one half, the other fills up.

    Returns:
        the rows chosen, by true class, with a column `_recognised`. Columns added begin with an underscore: the others
        may be named after any class.
    """
    rows = predictions[predictions["part"] == part].drop_duplicates("id")
    if rows.empty or count <= 0:
        return rows.head(0).assign(_recognised="")
    shares = rows[list(classes)].fillna(0.0).to_numpy()
    rows = rows.assign(
        _recognised=[classes[place] for place in shares.argmax(axis=1)],
        _draw=[hashlib.sha256(str(name).encode()).hexdigest() for name in rows["id"]],
    ).sort_values("_draw")
    rows["_miss"] = rows["label"] != rows["_recognised"]
    rights, misses = rows[~rows["_miss"]], rows[rows["_miss"]]
    wanted = max(min(count // 2, len(misses)), min(len(misses), count - len(rights)))
    wrong = _spread(misses, {}).head(wanted)
    right = _spread(rights, dict(wrong["label"].value_counts())).head(count - wanted)
    places = {name: place for place, name in enumerate(classes)}
    table = rows.loc[[*right.index, *wrong.index]]
    return table.assign(_place=table["label"].map(places)).sort_values(["_place", "_miss", "_draw"], kind="stable")


def samples(
    predictions: pd.DataFrame, classes: Sequence[str], part: str, count: int, data: Dataset | None = None
) -> list[Sample]:
    """Choose clips and put together what is shown of them: see `choose`.

    The sound is that of `data`, the prepared table (columns id and audio); without it the samples have none.
    """
    table = choose(predictions, classes, part, count)
    heard = sounds(data, list(table["id"])) if data is not None else {}
    made = []
    for row in table.to_dict("records"):
        bars = [Bar(name, float(row[name] or 0.0), label_color(name, place)) for place, name in enumerate(classes)]
        if len(bars) > _MOST_BARS:
            bars = sorted(bars, key=lambda bar: -bar.share)[:_MOST_BARS]
        sound, cut = heard.get(row["id"], (None, None))
        made.append(
            Sample(
                id=row["id"],
                corpus=row["corpus"],
                voice=voice(row),
                label=row["label"],
                recognised=row["_recognised"],
                bars=tuple(bars),
                sound=sound,
                cut=cut,
            )
        )
    return made


def voices(chosen: Sequence[Sample], metrics: Mapping[str, Any]) -> list[str]:
    """Say whose voices the samples with sound are, by corpus: the run's note on them, or the corpus and its terms."""
    told: dict[str, list[str]] = {}
    for corpus in sorted({sample.corpus for sample in chosen if sample.sound}):
        known = (metrics.get("terms") or {}).get(corpus)
        title = f"{known['title']} ({known['license']}: {known['terms']})" if known else "recordings of your own"
        told.setdefault((metrics.get("notes") or {}).get(corpus) or title, []).append(corpus)
    return [f"{', '.join(corpora)}: {line}" for line, corpora in told.items()]


def _spread(rows: pd.DataFrame, taken: Mapping[str, int]) -> pd.DataFrame:
    """Order rows so that each true class has its turn before any has its second; `taken`: turns had before."""
    turns = rows.groupby("label").cumcount() + rows["label"].map(lambda name: taken.get(name, 0)).astype("int64")
    return rows.assign(_turn=turns).sort_values(["_turn", "_draw"])


def voice(row: Mapping[Any, Any]) -> str:
    """Describe the voice of a row of predictions: "ravdess-03, male, strong"."""
    known = [row["speaker"], row.get("gender"), row.get("intensity")]
    return ", ".join(str(item) for item in known if isinstance(item, str) and item)


def sounds(data: Dataset, wanted: Sequence[str]) -> dict[str, tuple[str, float | None]]:
    """Find clips in the prepared table: id -> data URI, and the length in seconds of a clip that was cut."""
    names = set(wanted)
    places = {name: place for place, name in enumerate(data.select_columns(["id"])["id"]) if name in names}
    # As Arrow, whatever the column's type is: a plain `Audio` column would want torchcodec.
    table = data.select_columns(["audio"]).with_format("arrow")
    found: dict[str, tuple[str, float | None]] = {}
    for name, place in places.items():
        stored = table[place]["audio"][0].as_py()
        try:
            samples = audio.from_wav(stored["bytes"]) if stored["bytes"] else audio.decode(stored["path"])
        except InputError:
            continue
        length = len(samples) / audio.SAMPLE_RATE
        wav = audio.to_wav(samples[: int(LONGEST * audio.SAMPLE_RATE)])
        found[name] = ("data:audio/wav;base64," + base64.b64encode(wav).decode(), length if length > LONGEST else None)
    return found
