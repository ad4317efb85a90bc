"""The `datasets` builder: from the recordings of a catalog to one Arrow table of 16 kHz sound with labels."""

from __future__ import annotations

import csv
import json
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa

from .. import audio
from ..labels import same_emotion
from ..utils.errors import raise_machine_failure
from ..utils.progress import progress_bar
from ..utils.text import csv_line, restore_csv_cell
from .catalog import Catalog, Clip
from .corpora import REASONS
from .deduplication import DuplicateIndex, Signature, signatures
from .skipped import Skipped

SKIPPED_FILE = "skipped.csv"
RETRACTED_FILE = "retracted.json"
# Rows are written in batches of at most so many clips, and of about so many bytes.
_BATCH_SIZE, _BATCH_BYTES = 64, 64 * 1024**2
_TEXT_COLUMNS = ("gender", "intensity", "statement", "language")


class SerCorpora(datasets.ArrowBasedBuilder):  # type: ignore[misc]
    """Builds the prepared table of a `Catalog`.

    Threads decode each clip once. Clips that cannot be used are listed in `skipped.csv` next to the table. If a
    recording occurs twice, by its decoded content, it is kept once; if its labels differ, it is not kept at all.
    """

    VERSION = datasets.Version("1.2.0")

    def __init__(self, catalog: Catalog, cache_dir: str | Path | None = None, progress: bool = True) -> None:
        self.catalog = catalog
        self.progress = progress
        cache = str(cache_dir) if cache_dir else None
        super().__init__(cache, dataset_name="ser_ft", config_name="corpora", config_id=f"corpora-{catalog.key}")

    @property
    def folder(self) -> Path:
        """The folder of the table and of `skipped.csv`."""
        return Path(self._output_dir)

    @property
    def retracted(self) -> set[str]:
        """The ids of written clips whose recording was found again later with another label."""
        return set(json.loads((self.folder / RETRACTED_FILE).read_text(encoding="utf-8")))

    def as_dataset(self, *args: Any, **options: Any) -> Any:
        """Return the table without the retracted clips."""
        table = super().as_dataset(*args, **options)
        retracted = self.retracted
        if retracted and isinstance(table, datasets.Dataset):
            table = table.select([row for row, clip_id in enumerate(table["id"]) if clip_id not in retracted])
        return table

    def _info(self) -> datasets.DatasetInfo:
        classes = list(self.catalog.scheme.classes)
        text = datasets.Value("string")
        features = {
            "id": text,
            "audio": datasets.Audio(sampling_rate=audio.SAMPLE_RATE, decode=False),
            "emotion": datasets.ClassLabel(names=classes),
            **dict.fromkeys(("corpus", "speaker", "gender"), text),
            "age": datasets.Value("int32"),
            **dict.fromkeys(("intensity", "statement", "language"), text),
            "duration": datasets.Value("float64"),
            "sampling_rate": datasets.Value("int32"),
            "path": text,
        }
        if any(clip.votes for clip in self.catalog.clips):
            features["votes"] = datasets.List(datasets.Value("float32"), length=len(classes))
        info = self.catalog.corpus_info()
        return datasets.DatasetInfo(
            description=json.dumps({"corpora": info, "key": self.catalog.key}),
            features=datasets.Features(features),
            license="; ".join(f"{name}: {corpus['license']}" for name, corpus in info.items()),
            citation="\n".join(corpus["citation"] for corpus in info.values() if corpus["citation"]),
        )

    def _split_generators(self, _: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        return [datasets.SplitGenerator(name=datasets.Split.TRAIN, gen_kwargs={})]

    def _generate_tables(self) -> Iterator[tuple[int, pa.Table]]:  # type: ignore[override]
        clips, label_names = self.catalog.clips, self.catalog.scheme.classes
        deduplicator = _Deduplicator(self.catalog.skipped)
        schema = self.info.features.arrow_schema
        bar = progress_bar(
            _decode_in_threads(clips), total=len(clips), desc="reading", unit=" clips", show_progress=self.progress
        )
        accepted = (
            _row(clip, decoded, label_names.index(clip.label))
            for clip, decoded in bar
            if deduplicator.accept(clip, decoded)
        )
        for number, rows in enumerate(_batches(accepted)):
            yield number, _table(rows, schema)
        write_skipped(deduplicator.skipped, self.folder / SKIPPED_FILE)
        (self.folder / RETRACTED_FILE).write_text(json.dumps(sorted(deduplicator.retracted)), encoding="utf-8")


def _batches(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += len(row["audio"]["bytes"])
        if len(batch) == _BATCH_SIZE or size > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _DecodedClip:
    """A decoded clip: its WAV bytes, its original sampling rate and its signatures, or the decoding error."""

    __slots__ = ("duration", "error", "rate", "signatures", "wav")

    def __init__(self, clip: Clip, before_long: Callable[[], object]) -> None:
        self.wav = b""
        self.duration = 0.0
        self.rate: int | None = None
        self.signatures: list[Signature] = []
        self.error: audio.AudioError | None = None
        try:
            samples, self.rate, sound = clip.decode(before_long)
            if audio.is_silent(samples):
                raise audio.AudioError("silent", REASONS["silent"])
            pcm = audio.to_pcm16(samples)
            del samples
            self.duration = len(pcm) / audio.SAMPLE_RATE
            self.signatures = signatures(pcm, sound)
            self.wav = audio.to_wav(pcm)
        except Exception as error:  # whatever a broken file does to a decoder, it must not stop the build
            raise_machine_failure(error)
            unreadable = audio.AudioError("unreadable", f"{type(error).__name__}: {error}")
            self.error = error.without_traceback() if isinstance(error, audio.AudioError) else unreadable


class _Deduplicator:
    """Accepts each recording once, and lists the clips that are skipped."""

    def __init__(self, skipped: list[Skipped]) -> None:
        self.skipped = list(skipped)
        self.retracted: set[str] = set()
        self._index: DuplicateIndex[Clip] = DuplicateIndex()

    def accept(self, clip: Clip, decoded: _DecodedClip) -> bool:
        if decoded.error is not None:
            self._skip(clip, decoded.error.reason, str(decoded.error))
            return False
        first = self._index.find_or_add(decoded.signatures, clip)
        if first is None:
            return True
        if same_emotion(first.utterance.emotion, clip.utterance.emotion) and first.label == clip.label:
            self._skip(clip, "same-sound", f"the same recording as {first.utterance.id}")
            return False
        self._skip_two_labels(clip, first)
        first_id = escape_surrogates(first.utterance.id)
        if first_id not in self.retracted:
            self.retracted.add(first_id)
            self._skip_two_labels(first, clip)
        return False

    def _skip_two_labels(self, clip: Clip, other: Clip) -> None:
        detail = f"{clip.utterance.emotion} here, {other.utterance.emotion} in {other.utterance.id}"
        self._skip(clip, "two-labels", detail)

    def _skip(self, clip: Clip, reason: str, detail: str) -> None:
        self.skipped.append(Skipped(clip.path, clip.corpus, reason, detail))


class _Turns:
    """Lets threads wait until all clips before their own are written, so that few long ones are in memory at once."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._current: float = 0

    def wait_for(self, number: int) -> None:
        with self._condition:
            self._condition.wait_for(lambda: self._current >= number)

    def set(self, number: float) -> None:
        with self._condition:
            self._current = number
            self._condition.notify_all()


def _decode_in_threads(clips: list[Clip]) -> Iterator[tuple[Clip, _DecodedClip]]:
    """Decode clips in threads (decoders release the interpreter's lock), in order, with few in memory at a time.

    A long clip is decoded when it is the next to be written.
    """
    workers, turns = min(8, os.cpu_count() or 1), _Turns()
    pending: deque[tuple[Clip, Callable[[], _DecodedClip]]] = deque()
    remaining = enumerate(clips)
    with ThreadPoolExecutor(workers) as pool:
        try:
            for current in count():
                turns.set(current)
                for number, clip in islice(remaining, 4 * workers - len(pending)):
                    future = pool.submit(_DecodedClip, clip, partial(turns.wait_for, number))
                    pending.append((clip, future.result))
                if not pending:
                    return
                clip, result = pending.popleft()
                yield clip, result()
        finally:
            turns.set(math.inf)
            pool.shutdown(wait=True, cancel_futures=True)


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Make a table column by column, which copies the audio in one piece instead of value by value."""
    columns = {name: [row[name] for row in rows] for name in schema.names}
    sounds, audio_type = columns.pop("audio"), schema.field("audio").type
    fields = [pa.array([sound[name] for sound in sounds], audio_type.field(name).type) for name in ("bytes", "path")]
    arrays = {name: pa.array(values, schema.field(name).type) for name, values in columns.items()}
    arrays["audio"] = pa.StructArray.from_arrays(fields, names=["bytes", "path"])
    return pa.table([arrays[name] for name in schema.names], schema=schema)


def _row(clip: Clip, decoded: _DecodedClip, label: int) -> dict[str, Any]:
    utterance = clip.utterance
    row = {
        "id": utterance.id,
        "audio": {"bytes": decoded.wav, "path": escape_surrogates(f"{utterance.id}.wav")},
        "emotion": label,
        "corpus": clip.corpus,
        "speaker": utterance.speaker,
        **{name: getattr(utterance, name) for name in _TEXT_COLUMNS},
        "age": utterance.age,
        "duration": decoded.duration,
        "sampling_rate": decoded.rate,
        "path": clip.path,
    }
    if clip.votes is not None:
        row["votes"] = list(clip.votes)
    return {key: escape_surrogates(value) if isinstance(value, str) else value for key, value in row.items()}


def escape_surrogates(name: str) -> str:
    r"""Write the bytes of a file name that are not UTF-8 as escapes, for example \xe9."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def write_skipped(skipped: list[Skipped], file: Path) -> None:
    """Write the list of skipped files: path, corpus, reason, detail."""
    rows = (
        (escape_surrogates(skip.path), skip.corpus, skip.reason, escape_surrogates(skip.detail)) for skip in skipped
    )
    with file.open("w", encoding="utf-8", newline="") as lines:
        lines.writelines(map(csv_line, [("path", "corpus", "reason", "detail"), *rows]))


def read_skipped(file: Path) -> list[Skipped]:
    """Read `skipped.csv`."""
    with file.open(encoding="utf-8", newline="") as lines:
        return [Skipped(*map(restore_csv_cell, row)) for row in islice(csv.reader(lines), 1, None)]
