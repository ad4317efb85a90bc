"""Example clips for reports: which clips are shown, with their probabilities and their audio."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ... import audio
from ...labels import label_color
from ...utils.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset

MAX_SECONDS = 12.0
"""Seconds of a clip that are embedded in a report."""
_MAX_BARS = 10


class Bar(NamedTuple):
    """The probability of a class, and the color of the class."""

    name: str
    probability: float
    color: str


@dataclass(frozen=True)
class Sample:
    """A clip with its label and its prediction.

    `voice` describes the speaker, and `bars` has at most ten classes. `audio_uri` is a WAV file as data URI;
    `full_duration` is the clip's duration in seconds if only its beginning is embedded, else None.
    """

    id: str
    corpus: str
    voice: str
    label: str
    prediction: str
    bars: tuple[Bar, ...]
    audio_uri: str | None = None
    full_duration: float | None = None

    @property
    def correct(self) -> bool:
        """Whether the prediction is right."""
        return self.label == self.prediction


def check_same_clips(clips: pd.DataFrame, data: Dataset) -> None:
    """Check that a prepared table holds the clips (id, duration) that runs were evaluated on.

    Raises:
        InputError: the table holds none of the clips, or clips of other durations under their ids.
    """
    durations = clips.drop_duplicates("id").set_index("id")["duration"]
    if not durations.index.isin(data["id"]).any():
        raise InputError("--data: is not what the runs were made from: it holds none of their clips")
    if "duration" not in data.column_names:
        return
    prepared = data.select_columns(["id", "duration"]).to_pandas().set_index("id")["duration"]
    difference = (prepared.reindex(durations.index) - durations).abs().dropna()
    if (difference > 1e-3).any():
        clip = difference.idxmax()
        raise InputError(f"--data: is not what the runs were made from: {clip} has another duration in it")


def select_clips(predictions: pd.DataFrame, classes: Sequence[str], part: str, count: int) -> pd.DataFrame:
    """Select clips of a part, half of them predicted correctly and half not, spread over the true classes.

    The same predictions give the same clips. If there are too few of one half, the other half is larger. The rows are
    sorted by true class and have a column `_prediction`.
    """
    # Added columns start with an underscore because the others may be named after any class.
    rows = predictions[predictions["part"] == part].drop_duplicates("id")
    if rows.empty or count <= 0:
        return rows.head(0).assign(_prediction="")
    probabilities = rows[list(classes)].fillna(0.0).to_numpy()
    rows = rows.assign(
        _prediction=[classes[index] for index in probabilities.argmax(axis=1)],
        _hash=[hashlib.sha256(str(name).encode()).hexdigest() for name in rows["id"]],
    ).sort_values("_hash")
    rows["_wrong"] = rows["label"] != rows["_prediction"]
    correct, wrong = rows[~rows["_wrong"]], rows[rows["_wrong"]]
    num_wrong = max(min(count // 2, len(wrong)), min(len(wrong), count - len(correct)))
    wrong = _spread_over_classes(wrong, {}).head(num_wrong)
    correct = _spread_over_classes(correct, dict(wrong["label"].value_counts())).head(count - num_wrong)
    table = rows.loc[[*correct.index, *wrong.index]]
    table["_class"] = table["label"].map({name: index for index, name in enumerate(classes)})
    return table.sort_values(["_class", "_wrong", "_hash"], kind="stable")


def make_samples(
    predictions: pd.DataFrame, classes: Sequence[str], part: str, count: int, data: Dataset | None = None
) -> list[Sample]:
    """Return `count` clips (see `select_clips`), with their audio from `data`, the prepared table."""
    table = select_clips(predictions, classes, part, count)
    embedded = embed_clips(data, list(table["id"])) if data is not None else {}
    samples = []
    for row in table.to_dict("records"):
        bars = [Bar(name, float(row[name] or 0.0), label_color(name, index)) for index, name in enumerate(classes)]
        if len(bars) > _MAX_BARS:
            bars = sorted(bars, key=lambda bar: -bar.probability)[:_MAX_BARS]
        facts = (row["id"], row["corpus"], describe_voice(row), row["label"], row["_prediction"])
        samples.append(Sample(*facts, tuple(bars), *embedded.get(row["id"], (None, None))))
    return samples


def voice_notes(samples: Sequence[Sample], metrics: Mapping[str, Any]) -> list[str]:
    """State the source of the samples with audio, by corpus: the run's note on it, or its title and terms."""
    corpora: dict[str, list[str]] = {}
    for corpus in sorted({sample.corpus for sample in samples if sample.audio_uri}):
        facts = (metrics.get("terms") or {}).get(corpus)
        title = f"{facts['title']} ({facts['license']}: {facts['terms']})" if facts else "your own recordings"
        corpora.setdefault((metrics.get("notes") or {}).get(corpus) or title, []).append(corpus)
    return [f"{', '.join(names)}: {note}" for note, names in corpora.items()]


def describe_voice(row: Mapping[Any, Any]) -> str:
    """Describe the voice in a row of predictions: "ravdess-03, male, strong"."""
    known = [row["speaker"], row.get("gender"), row.get("intensity")]
    return ", ".join(str(item) for item in known if isinstance(item, str) and item)


def embed_clips(data: Dataset, ids: Sequence[str]) -> dict[str, tuple[str, float | None]]:
    """Return id -> data URI, and full duration (s) if it was shortened, of the clips that can be read."""
    requested = set(ids)
    rows = {name: row for row, name in enumerate(data.select_columns(["id"])["id"]) if name in requested}
    # As Arrow, whatever the column's type is: a plain `Audio` column would need torchcodec.
    table = data.select_columns(["audio"]).with_format("arrow")
    embedded: dict[str, tuple[str, float | None]] = {}
    for name, row in rows.items():
        stored = table[row]["audio"][0].as_py()
        try:
            samples = audio.from_wav(stored["bytes"]) if stored["bytes"] else audio.decode(stored["path"])
        except InputError:
            continue
        duration = len(samples) / audio.SAMPLE_RATE
        wav = audio.to_wav(samples[: int(MAX_SECONDS * audio.SAMPLE_RATE)])
        uri = "data:audio/wav;base64," + base64.b64encode(wav).decode()
        embedded[name] = (uri, duration if duration > MAX_SECONDS else None)
    return embedded


def _spread_over_classes(rows: pd.DataFrame, taken: Mapping[str, int]) -> pd.DataFrame:
    """Sort rows so that each class has its first clip before any has its second; `taken`: clips it has already."""
    turns = rows.groupby("label").cumcount() + rows["label"].map(lambda name: taken.get(name, 0)).astype("int64")
    return rows.assign(_turn=turns).sort_values(["_turn", "_hash"])
