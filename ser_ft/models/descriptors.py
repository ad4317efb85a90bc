"""What is computed of each short window of a waveform: the descriptors of speech that networks and classifiers hear.

Sources: energy, zero crossings, spectral shape, flux, roll-off, the entropies and the deviation of the chroma follow
Giannakopoulos and Pikrakis, Introduction to Audio Analysis (2014), and pyAudioAnalysis (PLoS ONE 10(12), 2015); the
entropies count all samples and bins of a window, not only as many as ten divides. MFCC: Davis and Mermelstein (1980).
Mel bands: Slaney's Auditory Toolbox (1998) and the HTK Book. Chroma: Ellis (2007). What librosa has too is librosa's.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from transformers.audio_utils import chroma_filter_bank, mel_filter_bank

DESCRIPTORS = {
    "zcr": "zero-crossing rate: changes of sign, per sample of the window",
    "energy": "mean square of the window's samples",
    "rms": "root of the mean square of the window's samples",
    "energy-entropy": "entropy of the energy over ten parts of the window, in bits: low where sound sets in or ends",
    "centroid": "spectral centroid: mean frequency, weighted by magnitude, in Hz",
    "spread": "spectral spread: standard deviation of the frequency around the centroid, in Hz",
    "spectral-entropy": "entropy of the energy over ten bands of equal width, in bits: low for a tone",
    "flux": "spectral flux: squared distance to the window before, of magnitudes that sum to 1",
    "rolloff": "frequency below which 90 % of the energy lies, in Hz",
    "mfcc": "mel-frequency cepstral coefficients, from the natural logarithm of the mel spectrogram",
    "mfcc-delta": "slope of the coefficients over nine windows, per window",
    "mfcc-delta2": "curvature of the coefficients over nine windows, per window squared",
    "chroma": "energy of the twelve pitch classes (A4 at 440 Hz), the largest at 1",
    "chroma-deviation": "standard deviation of the twelve pitch classes",
    "mel": "mel spectrogram: energy in bands that are spaced as pitch is heard",
    "log-mel": "natural logarithm of the mel spectrogram",
}
MEL_SCALES = ("slaney", "htk")
PITCH_CLASSES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
ENTROPY_PARTS = 10
ROLLOFF = 0.9
LOG_FLOOR = 1e-10
DELTA_ORDERS = {"mfcc-delta": 1, "mfcc-delta2": 2}
# librosa's width of a delta, in windows.
DELTA_WIDTH = 9
ENERGY_DESCRIPTORS = {"energy", "rms", "energy-entropy"}
_OF_MAGNITUDES = {"centroid", "spread", "flux"}
_OF_MELS = {"mel", "log-mel", "mfcc"}
_OF_PITCHES = {"chroma", "chroma-deviation"}
_TINY = 1e-20
# Samples of the windows that are worked on at a time: their spectra stay in a processor's cache, or fill a GPU.
_AT_ONCE, _AT_ONCE_GPU = 2**19, 2**25


class Frontend(NamedTuple):
    """The settings of `SpectralFeatureExtractor` that windows depend on: lengths in samples, frequencies in Hz."""

    win_length: int
    hop_length: int
    n_fft: int
    sampling_rate: int
    n_mels: int
    f_min: float
    f_max: float
    mel_scale: str
    power: float
    log_offset: float
    n_mfcc: int

    def width(self, name: str) -> int:
        """Return how many numbers a descriptor has."""
        if name.startswith("mfcc"):
            return self.n_mfcc
        return {"chroma": len(PITCH_CLASSES), "mel": self.n_mels, "log-mel": self.n_mels}.get(name, 1)


class PackedClips(NamedTuple):
    """Clips one after the other in one row, with zeros between them, so that no window reaches two of them.

    Attributes:
        sound: shape (samples,); the transform of window `slot` begins at `slot * hop`.
        slots: of each clip's first window. counts: of each clip's windows.
        borders: samples at which a clip begins, and those at which one has just ended.
    """

    sound: torch.Tensor
    slots: list[int]
    counts: list[int]
    borders: torch.Tensor

    @property
    def total(self) -> int:
        """The slots in all; those between two clips hold no clip's windows."""
        return self.slots[-1] + self.counts[-1]


def pack(clips: Sequence[torch.Tensor], frontend: Frontend) -> PackedClips:
    """Put clips, each of shape (samples,), one after the other."""
    hop, half = frontend.hop_length, frontend.n_fft // 2
    counts = [1 + len(clip) // hop for clip in clips]
    slots = [0]
    for clip in clips:
        slots.append(slots[-1] + -(-(len(clip) + half) // hop))
    starts = [half + slot * hop for slot in slots[:-1]]
    ends = [start + len(clip) for start, clip in zip(starts, clips, strict=True)]
    size = max(ends[-1], (slots[-2] + counts[-1] - 1) * hop + frontend.n_fft)
    # Filled clip by clip: a zero is written only where no clip will be.
    sound = clips[0].new_empty(size)
    for clip, before, start, end in zip(clips, (0, *ends), starts, ends, strict=False):
        sound[before:start] = 0
        sound[start:end] = clip
    sound[ends[-1] :] = 0
    return PackedClips(sound, slots[:-1], counts, torch.tensor([*starts, *ends], device=sound.device))


class Frames(NamedTuple):
    """Clips' windows as rows of numbers.

    Attributes:
        numbers: shape (clips, windows, numbers), zero beyond a clip's windows. counts: of each clip's windows.
    """

    numbers: torch.Tensor
    counts: list[int]


class _Group(NamedTuple):
    """Windows `first` to `last` of a layout, and what is wanted of them."""

    layout: PackedClips
    first: int
    last: int
    wanted: frozenset[str]
    frontend: Frontend


def compute_descriptors(clips: Sequence[torch.Tensor], names: Sequence[str], frontend: Frontend) -> Frames:
    """Compute descriptors of clips.

    Args:
        clips: each of shape (samples,), float with full scale at 1.0, on one device.
        names: of `DESCRIPTORS`; their numbers come side by side in this order. frontend: the settings.
    """
    layout = pack(clips, frontend)
    wanted = frozenset("mfcc" if name in DELTA_ORDERS else name for name in names)
    found = {name: layout.sound.new_empty(layout.total, frontend.width(name)) for name in wanted}
    step = max(1, (_AT_ONCE if layout.sound.device.type == "cpu" else _AT_ONCE_GPU) // frontend.n_fft)
    for first in range(0, layout.total, step):
        group = _Group(layout, first, min(first + step, layout.total), wanted, frontend)
        computed = _of_samples(group) | _of_spectra(group)
        for name in wanted:
            found[name][group.first : group.last] = computed[name]
    if "flux" in wanted:
        found["flux"][layout.slots] = 0
    for name in DELTA_ORDERS.keys() & set(names):
        found[name] = deltas(found["mfcc"], layout, DELTA_ORDERS[name])
    width = sum(frontend.width(name) for name in names)
    numbers = layout.sound.new_empty(len(clips), max(layout.counts), width)
    for row, slot, count in zip(numbers, layout.slots, layout.counts, strict=True):
        torch.cat([found[name][slot : slot + count] for name in names], dim=1, out=row[:count])
        row[count:] = 0
    return Frames(numbers, layout.counts)


def _of_samples(group: _Group) -> dict[str, torch.Tensor]:
    """Compute what follows from the samples themselves, as differences of running sums."""
    computed: dict[str, torch.Tensor] = {}
    layout, first, last, wanted, frontend = group
    window = frontend.win_length
    begin = first * frontend.hop_length + (frontend.n_fft - window) // 2
    sound = layout.sound[begin : begin + (last - 1 - first) * frontend.hop_length + window]
    starts = torch.arange(last - first, device=sound.device)[:, None] * frontend.hop_length
    if "zcr" in wanted:
        negative = sound < -LOG_FLOOR
        crossings = negative[1:] != negative[:-1]
        borders = layout.borders - begin - 1
        crossings[borders[(borders >= 0) & (borders < len(crossings))]] = False
        running = _running(crossings, torch.int32)
        computed["zcr"] = (running[starts + window - 1] - running[starts]) / window
    if wanted & ENERGY_DESCRIPTORS:
        running = _running(sound.double().square_(), torch.float64)
        energy = ((running[starts + window] - running[starts]) / window).to(sound.dtype)
        computed |= {"energy": energy, "rms": energy.sqrt()}
        if "energy-entropy" in wanted:
            edges = torch.arange(ENTROPY_PARTS + 1, device=sound.device) * window // ENTROPY_PARTS
            computed["energy-entropy"] = entropy(running[starts + edges].diff(dim=1).to(sound.dtype))
    return computed


def _running(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the sums of the values before each place, and that of all, shape (values + 1,)."""
    sums = torch.zeros(len(values) + 1, dtype=dtype, device=values.device)
    torch.cumsum(values, 0, dtype=dtype, out=sums[1:])
    return sums


def _of_spectra(group: _Group) -> dict[str, torch.Tensor]:
    """Compute what follows from the spectra, which all share."""
    layout, first, last, wanted, frontend = group
    if not wanted - ENERGY_DESCRIPTORS - {"zcr"}:
        return {}
    tables = make_tables(frontend, wanted, layout.sound.device)
    # The flux of the first window looks at the one before.
    before = int("flux" in wanted and first > 0)
    shape, begin = (last - first + before, frontend.n_fft), (first - before) * frontend.hop_length
    windows = layout.sound.as_strided(shape, (frontend.hop_length, 1), begin)
    squares = torch.view_as_real(torch.fft.rfft(windows * tables.hann)).square_()
    return spectral_descriptors(squares[..., 0] + squares[..., 1], before, wanted, frontend, tables)


def spectral_descriptors(
    power: torch.Tensor, before: int, wanted: frozenset[str], frontend: Frontend, tables: Tables
) -> dict[str, torch.Tensor]:
    """Compute the descriptors that follow from power spectra.

    Args:
        power: of windows one after the other, shape (windows, bins) or (clips, windows, bins).
        before: 1 where the first of them only serves the flux of the next, else 0: its own flux is then 0.
        wanted: names of `DESCRIPTORS`; more than these may be computed. frontend: the settings. tables: made of them.

    Returns:
        Name -> numbers, shape (windows - before, width) or (clips, windows - before, width).
    """
    computed: dict[str, torch.Tensor] = {}
    if wanted & _OF_MAGNITUDES:
        computed |= _of_magnitudes(power.sqrt(), before, wanted, frontend.sampling_rate, tables.offsets)
    power = power[..., before:, :]
    if "rolloff" in wanted:
        running = power.cumsum(dim=-1)
        bins = (running < ROLLOFF * running[..., -1:]).sum(dim=-1, keepdim=True)
        computed["rolloff"] = bins * (frontend.sampling_rate / frontend.n_fft)
    sums = dict(zip(tables.summed, (power @ tables.sums).split(tables.widths, dim=-1), strict=False))
    if wanted & _OF_MELS:
        mel = sums["mel"] if frontend.power == 2 else power ** (frontend.power / 2) @ tables.mel_bank
        computed |= _of_mels(mel, wanted, tables.cosines, frontend.log_offset)
    if wanted & _OF_PITCHES:
        chroma = sums["chroma"] / sums["chroma"].amax(dim=-1, keepdim=True).clamp(min=_TINY)
        apart = chroma - chroma.mean(dim=-1, keepdim=True)
        computed |= {"chroma": chroma, "chroma-deviation": apart.square_().mean(dim=-1, keepdim=True).sqrt()}
    if "spectral-entropy" in wanted:
        computed["spectral-entropy"] = entropy(sums["spectral-entropy"])
    return computed


def _of_magnitudes(
    magnitude: torch.Tensor, before: int, wanted: frozenset[str], rate: int, offsets: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Compute centroid, spread and flux; the first `before` windows only serve the flux of the next."""
    total = magnitude.sum(dim=-1, keepdim=True)
    shares = magnitude / total.clamp(min=_TINY)
    computed: dict[str, torch.Tensor] = {}
    if "flux" in wanted:
        steps = shares[..., 1:, :] - shares[..., :-1, :]
        flux = torch.linalg.vector_norm(steps, dim=-1, keepdim=True).square_()
        computed["flux"] = flux if before else torch.nn.functional.pad(flux, (0, 0, 1, 0))
    if wanted & {"centroid", "spread"}:
        # Moments around the middle of the spectrum, where squares lose the least.
        mean = (shares @ offsets)[..., before:, None]
        square = (shares @ offsets.square())[..., before:, None]
        sounds = total[..., before:, :] > _TINY
        computed["centroid"] = (mean + rate / 4) * sounds
        computed["spread"] = (square - mean.square()).clamp(min=0).sqrt()
    return computed


def _of_mels(
    mel: torch.Tensor, wanted: frozenset[str], cosines: torch.Tensor, offset: float
) -> dict[str, torch.Tensor]:
    computed = {"mel": mel}
    if wanted & {"log-mel", "mfcc"}:
        computed["log-mel"] = log = (mel + offset).clamp_(min=LOG_FLOOR).log_()
        if "mfcc" in wanted:
            computed["mfcc"] = log @ cosines
    return computed


def entropy(energies: torch.Tensor) -> torch.Tensor:
    """Return the entropy of the shares of energy in a window's parts, in bits; 0 where there is no energy."""
    shares = energies / energies.sum(dim=-1, keepdim=True).clamp(min=_TINY)
    return (shares * shares.clamp(min=_TINY).log()).sum(dim=-1, keepdim=True) / -math.log(2)


def deltas(numbers: torch.Tensor, layout: PackedClips, order: int) -> torch.Tensor:
    """Return slope (order 1) or curvature (order 2) over time.

    A line, or a parabola, is fitted to nine windows by least squares (Savitzky & Golay 1964, as librosa's delta does):
    near a clip's ends to its first or last nine, and to all where a clip has fewer.

    Args:
        numbers: of the windows of a layout, shape (slots, size).
    """
    inner = torch.zeros_like(numbers)
    if len(numbers) >= DELTA_WIDTH:
        for place, weight in enumerate(derivative_weights(DELTA_WIDTH, order)):
            inner[: 1 - DELTA_WIDTH].add_(numbers[place : len(numbers) - DELTA_WIDTH + 1 + place], alpha=weight)
    places = torch.zeros(len(numbers), dtype=torch.long)
    for slot, count in zip(layout.slots, layout.counts, strict=True):
        if count >= DELTA_WIDTH:
            middle = torch.arange(count) - DELTA_WIDTH // 2
            places[slot : slot + count] = middle.clamp_(0, count - DELTA_WIDTH).add_(slot)
    found = inner[places.to(numbers.device)]
    for slot, count in zip(layout.slots, layout.counts, strict=True):
        if count < DELTA_WIDTH:
            fitted = torch.tensor(derivative_weights(count, order)).to(numbers)
            found[slot : slot + count] = fitted @ numbers[slot : slot + count]
    return found


@functools.cache
def derivative_weights(width: int, order: int) -> list[float]:
    """Return the weights of so many windows that give the derivative of that order of the polynomial of that order."""
    if width <= order:
        return [0.0] * width
    places = np.arange(width) - (width - 1) / 2
    weights: list[float] = (math.factorial(order) * np.linalg.pinv(np.vander(places, order + 1))[0]).tolist()
    return weights


class Tables(NamedTuple):
    """What windows and spectra are multiplied with.

    Attributes:
        hann: shape (fft,). sums: shape (bins, numbers), of the sums over the power spectrum that are wanted, side by
        side: `summed` names them, `widths` says how many numbers each has. mel_bank: shape (bins, n_mels).
        cosines: shape (n_mels, n_mfcc). offsets: of the bins from the middle one, in Hz, shape (bins,).
    """

    hann: torch.Tensor
    sums: torch.Tensor
    summed: list[str]
    widths: list[int]
    mel_bank: torch.Tensor
    cosines: torch.Tensor
    offsets: torch.Tensor


@functools.lru_cache(maxsize=16)
def make_tables(frontend: Frontend, wanted: frozenset[str], device: torch.device) -> Tables:
    """Return the tables that some descriptors need, on a device."""
    fft, rate = frontend.n_fft, frontend.sampling_rate
    bins = fft // 2 + 1
    hann = np.zeros(fft)
    left = (fft - frontend.win_length) // 2
    hann[left : left + frontend.win_length] = 0.5 - 0.5 * np.cos(
        2 * np.pi * np.arange(frontend.win_length) / frontend.win_length
    )
    mel_bank = _mel_bank(frontend)
    summed: dict[str, np.ndarray] = {}
    if wanted & _OF_MELS and frontend.power == 2:
        summed["mel"] = mel_bank
    if wanted & _OF_PITCHES:
        summed["chroma"] = chroma_filter_bank(fft, len(PITCH_CLASSES), rate).T
    if "spectral-entropy" in wanted:
        summed["spectral-entropy"] = np.eye(ENTROPY_PARTS)[np.arange(bins) * ENTROPY_PARTS // bins]
    widths = [table.shape[1] for table in summed.values()]
    # Filled up with zeros: matrix products run up to three times as fast where the width is a multiple of 16.
    widths.append(-sum(widths) % 16)
    places = np.outer(np.arange(frontend.n_mels) + 0.5, np.arange(frontend.n_mfcc))
    cosines = np.cos(np.pi / frontend.n_mels * places) * np.sqrt(2 / frontend.n_mels)
    cosines[:, 0] /= np.sqrt(2)
    offsets = np.arange(bins) * rate / fft - rate / 4

    def put(table: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(table, dtype=np.float32)).to(device)

    sums = np.concatenate([*summed.values(), np.zeros((bins, widths[-1]))], axis=1)
    return Tables(put(hann), put(sums), [*summed], widths, put(mel_bank), put(cosines), put(offsets))


def _mel_bank(frontend: Frontend) -> np.ndarray:
    slaney = frontend.mel_scale == "slaney"
    bank: np.ndarray = mel_filter_bank(
        frontend.n_fft // 2 + 1,
        frontend.n_mels,
        frontend.f_min,
        frontend.f_max,
        frontend.sampling_rate,
        norm="slaney" if slaney else None,
        mel_scale=frontend.mel_scale,
        triangularize_in_mel_space=not slaney,
    )
    return bank
