"""Augmentation of waveforms: versions of each training clip, made with `ser_ft.data.augmentation.transforms`.

`Augment` is passed to `datasets.Dataset.map`, or makes versions on the fly. Pitch, tempo and loudness carry emotion:
keep their ranges small. Validation and test clips are never augmented.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
from datasets.fingerprint import Hasher

from ... import audio
from ...utils.caches import cache_home
from ...utils.errors import InputError
from ...utils.progress import dataset_progress_bars
from .parameters import check_integer, is_fraction
from .transforms import TRANSFORMS, full_scale

__all__ = ["TRANSFORMS", "Augment", "augment_table"]

# Increase it with every change to the sound of a version: cached tables are then rebuilt.
VERSION = 1
_MAX_SEED = 2**32 - 1
# Clips per batch: 32 and their versions take about 20 MB, the default of `datasets` (1000) half a gigabyte.
_BATCH_SIZE = 32


@dataclass
class Augment:
    """Makes augmented versions of clips, in `table.map(augment, batched=True)` or one by one with `apply`.

    A version depends only on the seed, the clip's id and the version's number. Each transform has its own random
    numbers: removing one does not change the others' values.

    Attributes:
        transforms: name in `TRANSFORMS` -> settings: a number, [low, high] or names to sample from, and `p`, the
            probability that a version has the transform (1 by default). They are applied in the order of `TRANSFORMS`.
        copies: versions of each clip, numbered from 1.
        seed: random seed.
        originals: keep each clip before its versions, as number 0.

    Raises:
        InputError: a transform or setting is unknown, or a value is out of its range.
    """

    transforms: Mapping[str, Mapping[str, Any]]
    copies: int = 1
    seed: int = 0
    originals: bool = True
    version: int = field(default=VERSION, init=False, repr=False)

    def __post_init__(self) -> None:
        check_integer(self.copies, "copies", 1, 1000)
        check_integer(self.seed, "seed", 0, _MAX_SEED)
        if not isinstance(self.transforms, Mapping) or not self.transforms:
            raise InputError(f"augmentation: name one or more transforms of {', '.join(TRANSFORMS)}")
        for name in self.transforms:
            if name not in TRANSFORMS:
                raise InputError(f"augmentation: no transform {name!r}; there are {', '.join(TRANSFORMS)}")
        self.transforms = {
            name: _check_settings(name, self.transforms[name]) for name in TRANSFORMS if name in self.transforms
        }

    def sample_parameters(self, clip_id: str, version: int) -> dict[str, dict[str, Any]]:
        """Return the transforms of a version and their sampled settings, in order."""
        return {name: values for name, values, _ in self._sample(clip_id, version)}

    def apply(self, samples: np.ndarray, clip_id: str, version: int) -> np.ndarray:
        """Make a version of a clip.

        A version that would exceed full scale is made softer as a whole; it is not clipped. The global random
        generators of Python and numpy are used and restored: call it from one thread of a process at a time.

        Args:
            samples: float32 at 16 kHz, shape (samples,).
            version: number of the version, 0 or more, for example the epoch.

        Returns:
            float32 samples at 16 kHz, within [-1, 1]. stretch and speed change their number.
        """
        if samples.ndim != 1 or not len(samples) or not np.isfinite(samples).all():
            raise InputError(f"{clip_id}: augmentation needs one channel of one or more finite samples")
        # A copy, since the transforms write to their input.
        augmented = full_scale(np.array(samples, dtype=np.float32))
        with _global_seed(int(_generator(self.seed, clip_id, version, "").integers(2**32))):
            for name, values, generator in self._sample(clip_id, version):
                transformed = TRANSFORMS[name].apply(augmented, generator, **values)
                if len(transformed):
                    augmented = full_scale(transformed.astype(np.float32, copy=False))
        return augmented

    def __call__(self, batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        """Make the versions of a batch of a prepared table, for `table.map(augment, batched=True)`.

        Returns:
            The batch's columns with one row per version, and the columns `source` (the clip's id) and `copy` (the
            version's number; 0 is the clip itself). The `id` of a version is "{source}+{copy}".
        """
        names = list(batch)
        if not {"id", "audio"} <= set(names) or {"source", "copy"} & set(names):
            raise InputError(
                "only a prepared table can be augmented, and only once: see load_corpora and open_prepared"
            )
        rows: dict[str, list[Any]] = {name: [] for name in (*names, "source", "copy")}
        for values in zip(*(batch[name] for name in names), strict=True):
            clip = dict(zip(names, values, strict=True)) | {"source": values[names.index("id")], "copy": 0}
            for version in (*([clip] if self.originals else []), *self._versions(clip)):
                for name, value in version.items():
                    rows[name].append(value)
        return rows

    def _versions(self, clip: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        try:
            samples = audio.from_wav(clip["audio"]["bytes"])
        except (TypeError, KeyError) as error:
            raise InputError("the column audio of a table to augment must hold WAV bytes, not decoded") from error
        for copy in range(1, self.copies + 1):
            augmented = self.apply(samples, clip["id"], copy)
            name = f"{clip['id']}+{copy}"
            wav = {"bytes": audio.to_wav(augmented), "path": f"{name}.wav"}
            version = {**clip, "id": name, "audio": wav, "copy": copy}
            if "duration" in clip:
                version["duration"] = len(augmented) / audio.SAMPLE_RATE
            yield version

    def _sample(self, clip_id: str, version: int) -> Iterator[tuple[str, dict[str, Any], np.random.Generator]]:
        """Yield the transforms of a version, their settings, and the generator for their other random numbers."""
        for name, settings in self.transforms.items():
            generator = _generator(self.seed, clip_id, version, name)
            if generator.random() < settings["p"]:
                parameters = TRANSFORMS[name].parameters
                values = {key: parameter.sample(settings[key], generator) for key, parameter in parameters.items()}
                yield name, values, generator


def augment_table(
    table: datasets.Dataset, augment: Augment, num_proc: int | None = None, progress: bool = True
) -> datasets.Dataset:
    """Augment a prepared table, or some of its rows. The result is cached below `SER_FT_CACHE`.

    The result has one row per version and the columns `source` and `copy`: see `Augment`. It does not depend on the
    number of processes, `num_proc`.

    Raises:
        InputError: the table is not a prepared one, is augmented already, or is empty.
    """
    if not len(table):
        raise InputError("the table to augment holds no clips")
    state = Hasher.hash((table._fingerprint, len(table), augment))
    file = cache_home() / "augmented" / f"{state}.arrow"
    file.parent.mkdir(parents=True, exist_ok=True)
    added = {"source": datasets.Value("string"), "copy": datasets.Value("int64")}
    # Only the bar of `datasets` counts the clips of several processes.
    with dataset_progress_bars(progress):
        return table.map(
            augment,
            batched=True,
            batch_size=_BATCH_SIZE,
            writer_batch_size=_BATCH_SIZE * (1 + augment.copies),
            features=datasets.Features({**table.features, **added}),
            num_proc=num_proc,
            cache_file_name=str(file),
            new_fingerprint=state,
            desc="augmenting",
        )


def _check_settings(name: str, settings: Any) -> dict[str, Any]:
    """Return all settings of a transform, checked and with defaults, and `p`."""
    parameters = TRANSFORMS[name].parameters
    settings = {} if settings is None else settings
    if not isinstance(settings, Mapping):
        raise InputError(f"augmentation {name}: the settings must be a mapping, not {settings!r}")
    for key in settings:
        if key not in ("p", *parameters):
            raise InputError(f"augmentation {name}: no setting {key!r}; there are {', '.join((*parameters, 'p'))}")
    probability = settings.get("p", 1.0)
    if not is_fraction(probability):
        raise InputError(f"augmentation {name}.p must be a probability from 0 to 1, not {probability!r}")
    checked = {
        key: parameter.check(f"{name}.{key}", settings.get(key, parameter.default))
        for key, parameter in parameters.items()
    }
    return checked | {"p": float(probability)}


def _generator(seed: int, clip_id: str, version: int, transform: str) -> np.random.Generator:
    key = hashlib.blake2b(json.dumps([seed, clip_id, int(version), transform]).encode(), digest_size=16)
    return np.random.default_rng(int.from_bytes(key.digest(), "little"))


@contextmanager
def _global_seed(seed: int) -> Iterator[None]:
    """Seed the global generators, which audiomentations uses, and restore them afterwards."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
