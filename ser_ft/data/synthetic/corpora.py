"""The miniature: four small corpora of synthetic voices with the folder and file names of the real corpora.

They are used for first runs, tests and demonstrations. The parsers of the real corpora read the names; the sound comes
from `ser_ft.data.synthetic.synthesizer`, and nothing from the recordings.
"""

from __future__ import annotations

import json
import secrets
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path, PurePosixPath

import numpy as np

from ...audio import SAMPLE_RATE, resample, to_wav
from ...utils.atomic import claim_folder, explain_full_disk, release_folder, remove_abandoned
from ...utils.errors import InputError
from ...utils.files import check_output
from ...utils.progress import progress_bar
from ..corpora import CORPORA, Utterance
from ..scan import NOTE_FILE, SYNTHETIC_NOTE
from .synthesizer import Voice, synthesize

# Increase it with every change to the sound (here or in `ser_ft.data.synthetic.synthesizer`) or to the names.
VERSION = 1
_MINIATURE_FILE = "ser_ft_miniature.json"


@dataclass(frozen=True, slots=True)
class SyntheticClip:
    """A clip to write."""

    corpus: str
    path: PurePosixPath  # its path below the root
    utterance: Utterance
    phones: str  # what is spoken, as in `ser_ft.data.synthetic.synthesizer.synthesize`


@dataclass(frozen=True, slots=True)
class _Recording:
    """The recording conditions of a corpus."""

    rate: int  # sampling rate, Hz
    noise: float  # level of the background noise, dBFS
    strength: float  # how strongly its speakers express emotions
    spread: float  # how much this varies


_RECORDINGS = {
    "ravdess": _Recording(48_000, -68, 1.0, 0.9),
    "tess": _Recording(24_414, -64, 1.2, 0.6),
    "cremad": _Recording(16_000, -56, 0.95, 1.0),
    "savee": _Recording(44_100, -66, 1.0, 0.9),
}
_STRENGTHS = {None: 1.0, "normal": 0.85, "strong": 1.35, "low": 0.65, "medium": 1.0, "high": 1.4}

_RAVDESS = {
    "01": "k ih1 d z | aa r t ao1 k ih ng b ay dh ax d ao1 r",
    "02": "d ao1 g z | aa r s ih1 t ih ng b ay dh ax d ao1 r",
}
_CARRIER = "s ey dh ax w er d |"
_WORDS = {
    "back": "b ae1 k", "bean": "b iy1 n", "boat": "b ow1 t", "dog": "d ao1 g",
    "food": "f uw1 d", "keen": "k iy1 n", "moon": "m uw1 n", "rain": "r ey1 n",
}  # fmt: skip
_TESS_FOLDERS = {
    "OAF": ("OAF_angry", "OAF_disgust", "OAF_Fear", "OAF_happy", "OAF_neutral", "OAF_Pleasant_surprise", "OAF_Sad"),
    "YAF": ("YAF_angry", "YAF_disgust", "YAF_fear", "YAF_happy", "YAF_neutral", "YAF_pleasant_surprised", "YAF_sad"),
}
_TESS_CODES = ("angry", "disgust", "fear", "happy", "neutral", "ps", "sad")
_CREMAD_ACTORS = (1001, 1002, 1003, 1005, 1004, 1011, 1006, 1014, 1007, 1015, 1008, 1016)
_CREMAD_CODES = ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")
_CREMAD = {
    "IEO": "ih t s ax l eh1 v ax n | ax k l aa1 k",
    "DFA": "d ow1 n t f er g eh1 t | ax jh ae1 k ax t",
    "TSI": "dh ax s er1 f ax s | ih z s l ih1 k",
}
_SAVEE = (
    "sh iy hh ae1 d y ao r d aa1 r k s uw1 t",
    "d ow n t ae1 s k m iy | t uw k ae1 r iy",
    "w iy w ih1 l | k ah m b ae1 k t ax m aa1 r ow",
)


def miniature_clips(speakers: int | None = None) -> list[SyntheticClip]:
    """Return the clips of the miniature, of the first `speakers` speakers of each corpus (None: all)."""
    clips = []
    for corpus, (path, phones) in ((name, item) for name, names in _NAMES.items() for item in names(speakers)):
        utterance = CORPORA[corpus].parse(path)
        if utterance is None:
            raise RuntimeError(f"{path} is not a file name of {corpus}")
        clips.append(SyntheticClip(corpus, path, utterance, phones))
    return clips


def speaker_voice(utterance: Utterance, seed: int = 0) -> Voice:
    """Sample a speaker's voice by gender and age; it depends on the speaker and the seed only.

    The values are our own: fundamental frequencies around 115 Hz for men and 205 Hz for women, lower with their age.
    """
    key = zlib.crc32(utterance.speaker.encode())
    rng = np.random.default_rng([seed, key])
    man = utterance.gender == "male"
    age = max(0.0, ((utterance.age or 30) - 40) / 40)
    semitones = rng.normal(0, 2.0) - (0.0 if man else 2.0 * age)
    return Voice(
        f0=(115.0 if man else 205.0) * 2 ** (semitones / 12),
        tract=(1.0 if man else 1.16) * float(np.exp(rng.normal(0, 0.03))),
        melody=3.0 * float(np.exp(rng.normal(0, 0.2))),
        tempo=rng.normal(0, 0.08) - 0.08 * age,
        rd=rng.normal(1.0 if man else 1.2, 0.15),
        breath=rng.normal(-27 if man else -24, 2.0),
        jitter=0.7 + 0.3 * rng.random() + 0.6 * age,
        shimmer=3.0 + rng.random() + 2.0 * age,
        expressive=float(np.exp(rng.normal(0, 0.22))),
        seed=int(rng.integers(2**31)),
    )


def synthesize_clip(clip: SyntheticClip, seed: int = 0) -> tuple[np.ndarray, int]:
    """Return a clip's float32 samples, shape (samples,), full scale at 1.0, and their sampling rate in Hz."""
    recording = _RECORDINGS[clip.corpus]
    rng = np.random.default_rng([seed, zlib.crc32(clip.path.as_posix().encode()), VERSION])
    voice = speaker_voice(clip.utterance, seed)
    strength = recording.strength * _STRENGTHS[clip.utterance.intensity]
    sound = synthesize(clip.utterance.emotion, voice, clip.phones, rng, strength, recording.spread)
    microphone = np.random.default_rng([seed, voice.seed]).normal(0, 2.0)
    sound = resample(sound * np.float32(10 ** (microphone / 20)), SAMPLE_RATE, recording.rate)
    sound += np.float32(10 ** (recording.noise / 20)) * rng.standard_normal(len(sound), dtype=np.float32)
    return sound * np.float32(min(1.0, 0.95 / float(np.abs(sound).max()))), recording.rate


def write_miniature(root: str | Path, seed: int = 0, progress: bool = True, speakers: int | None = None) -> Path:
    """Write the miniature: 664 clips of 26 speakers, about 60 MB. The folder appears when it is complete.

    A complete miniature of the same version, seed and number of speakers of each corpus (None: all) is not written
    again; any other miniature is replaced. On one machine, the same seed gives the same files, byte for byte.
    """
    if seed < 0 or (speakers is not None and speakers < 1):
        raise InputError("the miniature's seed must be 0 or more, and its speakers 1 or more")
    root = Path(root)
    clips = miniature_clips(speakers)
    description = json.dumps({"version": VERSION, "seed": seed, "speakers": speakers, "clips": len(clips)}) + "\n"
    if _is_complete(root, description, clips):
        return root
    _check_replaceable(root)
    folder = root.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(folder.parent, f".{folder.name}-*")
    new = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
    claim_folder(new)
    new.mkdir()
    try:
        with explain_full_disk(folder):
            # The note comes first: if the process is killed, the remains have it too.
            (new / NOTE_FILE).write_text(SYNTHETIC_NOTE + "\n", encoding="utf-8")
            for clip in progress_bar(clips, desc="synthetic voices", unit=" clips", show_progress=progress):
                file = new / clip.path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(to_wav(*synthesize_clip(clip, seed)))
            (new / _MINIATURE_FILE).write_text(description, encoding="utf-8")
            _move_into_place(new, folder, description, clips)
    finally:
        release_folder(new)
    return root


def _move_into_place(new: Path, folder: Path, description: str, clips: list[SyntheticClip]) -> None:
    """Replace an older miniature or an empty folder by the finished one."""
    old = new.with_name(new.name + "-old")
    try:
        if folder.exists():
            folder.replace(old)
        new.replace(folder)
    except OSError:
        # Another process may have finished the same miniature first.
        if not _is_complete(folder, description, clips):
            if old.exists() and not folder.exists():
                old.replace(folder)
            raise
    shutil.rmtree(old, ignore_errors=True)


def _is_complete(root: Path, description: str, clips: list[SyntheticClip]) -> bool:
    try:
        same = (root / _MINIATURE_FILE).read_text(encoding="utf-8") == description and (root / NOTE_FILE).is_file()
    except (OSError, UnicodeDecodeError):
        return False
    return same and all((root / clip.path).is_file() for clip in clips)


def _check_replaceable(root: Path) -> None:
    files = {root / clip.path for clip in miniature_clips()} | {root / NOTE_FILE, root / _MINIATURE_FILE}

    def is_part(entry: Path) -> bool:
        return entry in files if entry.is_file() else all(map(is_part, entry.iterdir()))

    check_output(root, what="the miniature", option="folder", is_part=is_part)


def _ravdess(speakers: int | None) -> Iterator[tuple[PurePosixPath, str]]:
    for actor in (f"{number:02d}" for number in range(1, 9)[:speakers]):
        for emotion, intensity, statement in product(range(1, 9), ("01", "02"), _RAVDESS):
            if emotion > 1 or intensity == "01":
                name = f"03-01-{emotion:02d}-{intensity}-{statement}-01-{actor}.wav"
                yield PurePosixPath("RAVDESS/Audio_Speech_Actors_01-24", f"Actor_{actor}", name), _RAVDESS[statement]


def _tess(speakers: int | None) -> Iterator[tuple[PurePosixPath, str]]:
    for talker in list(_TESS_FOLDERS)[:speakers]:
        for (folder, code), word in product(zip(_TESS_FOLDERS[talker], _TESS_CODES, strict=True), _WORDS):
            yield PurePosixPath("TESS", folder, f"{talker}_{word}_{code}.wav"), f"{_CARRIER} {_WORDS[word]}"


def _cremad(speakers: int | None) -> Iterator[tuple[PurePosixPath, str]]:
    for index, actor in enumerate(_CREMAD_ACTORS[:speakers]):
        for (number, code), sentence in product(enumerate(_CREMAD_CODES), _CREMAD):
            # As in the corpus, only IEO has levels, and neutral has none.
            level = "XX" if sentence != "IEO" or code == "NEU" else ("HI", "MD", "LO")[(index + number) % 3]
            yield PurePosixPath("CREMA-D/AudioWAV", f"{actor}_{sentence}_{code}_{level}.wav"), _CREMAD[sentence]


def _savee(speakers: int | None) -> Iterator[tuple[PurePosixPath, str]]:
    for speaker in ("DC", "JE", "JK", "KL")[:speakers]:
        for code, number in product(("a", "d", "f", "h", "n", "sa", "su"), range(6)):
            if number < 3 or code == "n":
                name = f"{code}{number + 1:02d}.wav"
                yield PurePosixPath("SAVEE/AudioData", speaker, name), _SAVEE[number % len(_SAVEE)]


_NAMES = {"ravdess": _ravdess, "tess": _tess, "cremad": _cremad, "savee": _savee}
