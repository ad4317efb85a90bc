"""The `datasets` builder: recordings of any corpus -> one Arrow table of 16 kHz sound under one label scheme."""

from __future__ import annotations

import csv
import json
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import datasets
import pyarrow as pa

from .. import audio
from ..utils.progress import progress_bar
from .catalog import Catalog, Clip, Skipped
from .corpora import REASONS
from .deduplication import DuplicateIndex, Signature, signatures

SKIPPED_FILE = "skipped.csv"
RETRACTED_FILE = "retracted.json"
_ROWS = 64
_TEXTS = ("gender", "intensity", "statement", "language")


class SerCorpora(datasets.ArrowBasedBuilder):  # type: ignore[misc]
    """Builds the prepared table of a `Catalog`.

    A clip is decoded once, by threads; what cannot be used goes to `skipped.csv` beside the table. A recording found
    twice by its decoded content is kept once, and not at all where its labels differ.
    """

    VERSION = datasets.Version("1.1.0")

    def __init__(self, book: Catalog, cache_dir: str | Path | None = None, progress: bool = True) -> None:
        self.book = book
        self.progress = progress
        super().__init__(
            cache_dir=str(cache_dir) if cache_dir else None,
            dataset_name="ser_ft",
            config_name="corpora",
            config_id=f"corpora-{book.key}",
        )

    @property
    def folder(self) -> Path:
        """Where the table and `skipped.csv` are."""
        return Path(self._output_dir)

    @property
    def retracted(self) -> set[str]:
        """The ids of clips that were written before their recording was found again under another label."""
        return set(json.loads((self.folder / RETRACTED_FILE).read_text(encoding="utf-8")))

    def as_dataset(self, *args: Any, **options: Any) -> Any:
        """Return the table; clips that turned out to stand under two labels are left out."""
        table = super().as_dataset(*args, **options)
        retracted = self.retracted
        if retracted and isinstance(table, datasets.Dataset):
            table = table.select([at for at, name in enumerate(table["id"]) if name not in retracted])
        return table

    def _info(self) -> datasets.DatasetInfo:
        classes = list(self.book.scheme.classes)
        features = {
            "id": datasets.Value("string"),
            "audio": datasets.Audio(sampling_rate=audio.SAMPLE_RATE, decode=False),
            "emotion": datasets.ClassLabel(names=classes),
            "corpus": datasets.Value("string"),
            "speaker": datasets.Value("string"),
            "gender": datasets.Value("string"),
            "age": datasets.Value("int32"),
            "intensity": datasets.Value("string"),
            "statement": datasets.Value("string"),
            "language": datasets.Value("string"),
            "duration": datasets.Value("float64"),
            "sampling_rate": datasets.Value("int32"),
            "path": datasets.Value("string"),
        }
        if any(clip.votes for clip in self.book.clips):
            features["votes"] = datasets.List(datasets.Value("float32"), length=len(classes))
        about = self.book.about()
        return datasets.DatasetInfo(
            description=json.dumps({"corpora": about, "key": self.book.key}),
            features=datasets.Features(features),
            license="; ".join(f"{name}: {facts['license']}" for name, facts in about.items()),
            citation="\n".join(facts["citation"] for facts in about.values() if facts["citation"]),
        )

    def _split_generators(self, _: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        return [datasets.SplitGenerator(name=datasets.Split.TRAIN, gen_kwargs={})]

    def _generate_tables(self) -> Iterator[tuple[int, pa.Table]]:  # type: ignore[override]
        sieve = _Sieve(self.book.skipped)
        schema = self.info.features.arrow_schema
        places = {name: place for place, name in enumerate(self.book.scheme.classes)}
        rows: list[dict[str, Any]] = []
        number = 0
        total = len(self.book.clips)
        decoded = _decoded(self.book.clips)
        for clip, sound in progress_bar(decoded, total=total, desc="reading", unit=" clips", shown=self.progress):
            if sieve.keep(clip, sound):
                rows.append(_row(clip, sound, places[clip.label]))
            if len(rows) == _ROWS:
                yield number, _table(rows, schema)
                number += 1
                rows.clear()
        if rows:
            yield number, _table(rows, schema)
        write_skipped(sieve.skipped, self.folder / SKIPPED_FILE)
        (self.folder / RETRACTED_FILE).write_text(json.dumps(sorted(sieve.retracted)), encoding="utf-8")


class _Sound:
    """A decoded clip: its WAV bytes, its rate as found and its content's signatures, or what was wrong with it."""

    __slots__ = ("duration", "error", "marks", "rate", "wav")

    def __init__(self, clip: Clip) -> None:
        self.wav = b""
        self.duration = 0.0
        self.rate: int | None = None
        self.marks: list[Signature] = []
        self.error: audio.AudioError | None = None
        try:
            name = PurePosixPath(clip.path.split("::")[0]).name
            samples, self.rate = audio.decode_with_rate(clip.read(), name=name)
            if audio.is_silent(samples):
                raise audio.AudioError("silent", REASONS["silent"])
            pcm = audio.to_pcm16(samples)
            self.duration = len(pcm) / audio.SAMPLE_RATE
            self.marks = signatures(pcm)
            self.wav = audio.to_wav(pcm)
        except audio.AudioError as error:
            self.error = error
        except Exception as error:  # one bad file, whatever it does to a decoder, never stops a build
            self.error = audio.AudioError("unreadable", f"{type(error).__name__}: {error}")


class _Sieve:
    """Keeps each recording once, told by its decoded content, and lists what is left out."""

    def __init__(self, skipped: list[Skipped]) -> None:
        self.skipped = list(skipped)
        self.retracted: set[str] = set()
        self._seen: DuplicateIndex[Clip] = DuplicateIndex()

    def keep(self, clip: Clip, sound: _Sound) -> bool:
        if sound.error is not None:
            self._skip(clip, sound.error.reason, str(sound.error))
            return False
        first = self._seen.find_or_add(sound.marks, clip)
        if first is None:
            return True
        if first.utterance.emotion == clip.utterance.emotion and first.label == clip.label:
            self._skip(clip, "same-sound", f"the same recording as {first.utterance.id}")
            return False
        self._skip_twice_labelled(clip, first)
        if escape_surrogates(first.utterance.id) not in self.retracted:
            self.retracted.add(escape_surrogates(first.utterance.id))
            self._skip_twice_labelled(first, clip)
        return False

    def _skip_twice_labelled(self, clip: Clip, other: Clip) -> None:
        here, there = clip.utterance, other.utterance
        self._skip(clip, "two-labels", f"{here.emotion} here, {there.emotion} in {there.id}")

    def _skip(self, clip: Clip, reason: str, detail: str) -> None:
        self.skipped.append(Skipped(clip.path, clip.corpus, reason, detail))


def _decoded(clips: list[Clip]) -> Iterator[tuple[Clip, _Sound]]:
    """Decode clips in threads (the decoders release the interpreter's lock), in order, few at a time in memory."""
    workers = min(8, os.cpu_count() or 1)
    waiting: deque[tuple[Clip, Callable[[], _Sound]]] = deque()
    todo = iter(clips)
    with ThreadPoolExecutor(workers) as pool:
        try:
            while True:
                for clip in islice(todo, 8 * workers - len(waiting)):
                    waiting.append((clip, pool.submit(_Sound, clip).result))
                if not waiting:
                    return
                clip, sound = waiting.popleft()
                yield clip, sound()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Put rows together column by column: the sound goes over in one piece, not value by value."""
    columns = {name: [row[name] for row in rows] for name in schema.names}
    sounds = columns.pop("audio")
    parts = {
        part: pa.array([sound[part] for sound in sounds], schema.field("audio").type.field(part).type)
        for part in ("bytes", "path")
    }
    arrays = {name: pa.array(values, schema.field(name).type) for name, values in columns.items()}
    arrays["audio"] = pa.StructArray.from_arrays(list(parts.values()), names=list(parts))
    return pa.table([arrays[name] for name in schema.names], schema=schema)


def _row(clip: Clip, sound: _Sound, label: int) -> dict[str, Any]:
    said = clip.utterance
    row = {
        "id": said.id,
        "audio": {"bytes": sound.wav, "path": escape_surrogates(f"{said.id}.wav")},
        "emotion": label,
        "corpus": clip.corpus,
        "speaker": said.speaker,
        **{name: getattr(said, name) for name in _TEXTS},
        "age": said.age,
        "duration": sound.duration,
        "sampling_rate": sound.rate,
        "path": clip.path,
    }
    if clip.votes is not None:
        row["votes"] = list(clip.votes)
    return {key: escape_surrogates(value) if isinstance(value, str) else value for key, value in row.items()}


def escape_surrogates(name: str) -> str:
    """Write out the bytes of a file name that are not UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def write_skipped(skipped: list[Skipped], file: Path) -> None:
    """Write the list of what was left out: path, corpus, reason, detail."""
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(("path", "corpus", "reason", "detail"))
        writer.writerows(
            (escape_surrogates(skip.path), skip.corpus, skip.reason, escape_surrogates(skip.detail)) for skip in skipped
        )


def read_skipped(file: Path) -> list[Skipped]:
    """Read `skipped.csv` back."""
    with file.open(encoding="utf-8", newline="") as lines:
        return [Skipped(row["path"], row["corpus"], row["reason"], row["detail"]) for row in csv.DictReader(lines)]
