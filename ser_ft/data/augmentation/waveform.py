"""Augmentation: more versions of each training clip, by the transforms of `ser_ft.data.augmentation.transforms`.

`Augment` goes into `datasets.Dataset.map`, or makes versions on the fly. Pitch, tempo and loudness also tell the
emotion: keep their ranges small. Validation and test clips are never augmented.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
from datasets.fingerprint import Hasher

from ... import audio
from ...utils.errors import InputError
from ..prepare import cache_home
from .transforms import TRANSFORMS, full_scale

if TYPE_CHECKING:
    import torch

__all__ = ["TRANSFORMS", "Augment", "SpecAugment", "augmented", "mixed", "mixup_share", "spec_augment"]

# Whatever changes the sound of a version changes it: what was cached is then made anew.
VERSION = 1
_LARGEST_SEED = 2**32 - 1
# Clips: 32 of them and their versions take some 20 MB, the thousand that `datasets` takes by itself half a gigabyte.
_BATCH = 32


@dataclass
class Augment:
    """Makes versions of clips: in `table.map(augment, batched=True)`, or one by one with `wave`.

    What a version is follows from the seed, the clip's id and the version's number alone, and of each transform
    independently of the others: taking one out leaves the others' values as they were.

    Attributes:
        transforms: name -> settings, of those in `TRANSFORMS`: a number, [low, high] or names to draw from, and `p`,
            the probability that a version has it (1 by itself). They are applied in the order of `TRANSFORMS`.
        copies: versions made of each clip, numbered from 1.
        seed: of all draws.
        originals: keep each clip itself before its versions, as number 0.

    Raises:
        InputError: no such transform or setting, or a value out of its range.
    """

    transforms: Mapping[str, Mapping[str, Any]]
    copies: int = 1
    seed: int = 0
    originals: bool = True
    version: int = field(default=VERSION, init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the settings, and fill them up with the defaults."""
        _whole(self.copies, "copies", 1, 1000)
        _whole(self.seed, "seed", 0, _LARGEST_SEED)
        if not isinstance(self.transforms, Mapping) or not self.transforms:
            raise InputError(f"augmentation: name one or more transforms of {', '.join(TRANSFORMS)}")
        for name in self.transforms:
            if name not in TRANSFORMS:
                raise InputError(f"augmentation: no transform {name!r}; there are {', '.join(TRANSFORMS)}")
        self.transforms = {
            name: _checked(name, self.transforms[name]) for name in TRANSFORMS if name in self.transforms
        }

    def drawn(self, clip_id: str, version: int) -> dict[str, dict[str, Any]]:
        """Return what a version of a clip is made with: transform -> setting -> the value drawn, in order."""
        return {name: values for name, values, _ in self._draws(clip_id, version)}

    def wave(self, samples: np.ndarray, clip_id: str, version: int) -> np.ndarray:
        """Make a version of a clip.

        Where a transform goes beyond full scale the whole version is made softer; nothing is clipped for it. The global
        generators of Python and numpy are put back as they were: call it from one thread of a process at a time.

        Args:
            samples: float32 at 16 kHz, shape (samples,). clip_id: the clip's. version: a number from 0 up, such as the
                epoch's.

        Returns:
            float32 samples at 16 kHz, within [-1, 1], of another length where stretch or speed changed it.

        Raises:
            InputError: no samples, or not one channel of finite numbers.
        """
        if samples.ndim != 1 or not len(samples) or not np.isfinite(samples).all():
            raise InputError(f"{clip_id}: to augment a clip, give one channel of one or more finite samples")
        # A copy, since the transforms want samples that may be written to.
        made = full_scale(np.array(samples, dtype=np.float32))
        with _own_randomness(int(_generator(self.seed, clip_id, version, "").integers(2**32))):
            for name, values, generator in self._draws(clip_id, version):
                changed = TRANSFORMS[name].apply(made, generator, **values)
                if len(changed):
                    made = full_scale(changed.astype(np.float32, copy=False))
        return made

    def __call__(self, batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        """Make the versions of a batch of a prepared table: what `table.map(augment, batched=True)` calls.

        Returns:
            the batch's columns with a row per version, and the columns `source` (the clip's id) and `copy` (the
            version's number; 0: the clip itself). A version's `id` is "{source}+{copy}".
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

    def features(self, features: datasets.Features) -> datasets.Features:
        """Return the column types of the augmented table, given the table's."""
        return datasets.Features({**features, "source": datasets.Value("string"), "copy": datasets.Value("int64")})

    def _versions(self, clip: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        try:
            samples = audio.from_wav(clip["audio"]["bytes"])
        except (TypeError, KeyError) as error:
            raise InputError("to augment a table, let its column audio hold WAV bytes, undecoded") from error
        for copy in range(1, self.copies + 1):
            made = self.wave(samples, clip["id"], copy)
            name = f"{clip['id']}+{copy}"
            sound = {"bytes": audio.to_wav(made), "path": f"{name}.wav"}
            version = {**clip, "id": name, "audio": sound, "copy": copy}
            if "duration" in clip:
                version["duration"] = len(made) / audio.SAMPLE_RATE
            yield version

    def _draws(self, clip_id: str, version: int) -> Iterator[tuple[str, dict[str, Any], np.random.Generator]]:
        """Yield the transforms that a version has, their values, and the generator for the rest of what they draw."""
        for name, settings in self.transforms.items():
            generator = _generator(self.seed, clip_id, version, name)
            if generator.random() < settings["p"]:
                kinds = TRANSFORMS[name].settings
                yield name, {key: kind.draw(settings[key], generator) for key, kind in kinds.items()}, generator


def augmented(
    table: datasets.Dataset, augment: Augment, num_proc: int | None = None, shown: bool = True
) -> datasets.Dataset:
    """Augment a prepared table, or a part of one; it is made once and kept below `SER_FT_CACHE`.

    Args:
        table: a prepared table. augment: what is done to it. num_proc: processes that share the work; the result is the
            same. shown: show a progress bar.

    Returns:
        The table with a row per version and the columns `source` and `copy`: see `Augment`.

    Raises:
        InputError: it is no prepared table, or is augmented already.
    """
    if not len(table):
        raise InputError("the table to augment holds no clips")
    state = Hasher.hash((table._fingerprint, len(table), augment))
    file = cache_home() / "augmented" / f"{state}.arrow"
    file.parent.mkdir(parents=True, exist_ok=True)
    with _bars(shown):
        return table.map(
            augment,
            batched=True,
            batch_size=_BATCH,
            writer_batch_size=_BATCH * (1 + augment.copies),
            features=augment.features(table.features),
            num_proc=num_proc,
            cache_file_name=str(file),
            new_fingerprint=state,
            desc="augmenting",
        )


@dataclass
class SpecAugment:
    """Masks over frames and bands of a batch of features (Park et al. 2019, SpecAugment)."""

    times: int = 2
    """Masks over time in each clip."""

    time_width: float = 0.1
    """Widest mask over time, as a share of the clip."""

    bands: int = 2
    """Masks over bands in each clip."""

    band_width: float = 0.15
    """Widest mask over bands, as a share of the bands."""

    def __post_init__(self) -> None:
        for name in ("times", "bands"):
            _whole(getattr(self, name), f"spec_augment.{name}", 0, 100)
        for name in ("time_width", "band_width"):
            if not _is_share(getattr(self, name)):
                raise InputError(f"spec_augment.{name} must be a share from 0 to 1, not {getattr(self, name)!r}")


def spec_augment(
    features: torch.Tensor,
    mask: torch.Tensor,
    generator: torch.Generator,
    times: int = SpecAugment.times,
    time_width: float = SpecAugment.time_width,
    bands: int = SpecAugment.bands,
    band_width: float = SpecAugment.band_width,
) -> torch.Tensor:
    """Mask stretches of time and of bands in a batch of features (Park et al. 2019).

    Each mask is as wide as drawn evenly from 0 to the widest, and lies anywhere; what is masked becomes the mean of the
    clip's real frames, band by band. Frames of padding stay as they are.

    Args:
        features: shape (clips, frames, size). mask: shape (clips, frames), true (or 1) where a frame is real; a clip's
            real frames come first.
        generator: of the draws, on its own device. times, time_width, bands, band_width: see `SpecAugment`.

    Returns:
        A tensor of the features' shape, type and device.
    """
    import torch

    real = mask.to(device=features.device, dtype=torch.bool)
    lengths = real.sum(dim=1)

    def hidden(count: int, width: float, sizes: torch.Tensor, positions: int) -> torch.Tensor:
        draws = torch.rand((2, len(features), count), generator=generator, device=generator.device)
        share, place = draws.to(features.device)
        widths = torch.floor(share * (torch.floor(width * sizes)[:, None] + 1))
        starts = torch.floor(place * (sizes[:, None] - widths + 1))
        at = torch.arange(positions, device=features.device)
        inside = (at >= starts[..., None]) & (at < (starts + widths)[..., None])
        return inside.any(dim=1)

    over_time = hidden(times, time_width, lengths, features.shape[1])
    sizes = torch.full_like(lengths, features.shape[2])
    over_bands = hidden(bands, band_width, sizes, features.shape[2])
    covered = (over_time[:, :, None] | over_bands[:, None, :]) & real[:, :, None]
    summed = torch.where(real[:, :, None], features, torch.zeros_like(features)).sum(dim=1, keepdim=True)
    return torch.where(covered, summed / lengths.clamp(min=1)[:, None, None], features)


def mixup_share(alpha: float, generator: torch.Generator) -> float:
    """Draw the share that a clip keeps in mixup: Beta(alpha, alpha) (Zhang et al. 2018).

    Raises:
        InputError: alpha is not above 0.
    """
    import torch

    if not 0 < alpha < float("inf"):
        raise InputError(f"mixup's alpha must be a number above 0, not {alpha!r}")
    seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
    return float(np.random.default_rng(seed).beta(alpha, alpha))


def mixed(tensor: torch.Tensor, partners: torch.Tensor, share: float) -> torch.Tensor:
    """Mix each clip of a batch with its partner: inputs, and targets as probabilities, alike (Zhang et al. 2018).

    Args:
        tensor: shape (clips, ...). partners: the place of each clip's partner in the batch, shape (clips,), such as
            `torch.randperm` gives. share: of the clip itself.
    """
    return share * tensor + (1 - share) * tensor[partners]


def _checked(name: str, given: Any) -> dict[str, Any]:
    """Return a transform's settings whole: each in its one form, and p."""
    kinds = TRANSFORMS[name].settings
    given = {} if given is None else given
    if not isinstance(given, Mapping):
        raise InputError(f"augmentation {name}: give its settings as a mapping, not {given!r}")
    for key in given:
        if key not in ("p", *kinds):
            raise InputError(f"augmentation {name}: no setting {key!r}; there are {', '.join((*kinds, 'p'))}")
    chance = given.get("p", 1.0)
    if not _is_share(chance):
        raise InputError(f"augmentation {name}.p: give a probability from 0 to 1, not {chance!r}")
    settings = {key: kind.check(f"{name}.{key}", given.get(key, kind.default)) for key, kind in kinds.items()}
    return settings | {"p": float(chance)}


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _whole(value: Any, name: str, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InputError(f"augmentation: {name} must be a whole number from {least} to {most}, not {value!r}")


def _generator(seed: int, clip_id: str, version: int, what: str) -> np.random.Generator:
    key = hashlib.blake2b(json.dumps([seed, clip_id, int(version), what]).encode(), digest_size=16)
    return np.random.default_rng(int.from_bytes(key.digest(), "little"))


@contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """Let audiomentations draw from a seed of ours, and leave the global generators as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def _bars(shown: bool) -> Iterator[None]:
    """Show or hide the bars of `datasets`, which alone hear of its processes."""
    before = datasets.is_progress_bar_enabled()
    (datasets.enable_progress_bars if shown else datasets.disable_progress_bars)()
    try:
        yield
    finally:
        (datasets.enable_progress_bars if before else datasets.disable_progress_bars)()
