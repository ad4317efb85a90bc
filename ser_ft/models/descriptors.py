"""Short-term descriptors of speech, computed for each window of a waveform.

Sources: energy, zero crossings, spectral shape, flux, roll-off, the entropies and the deviation of the chroma follow
Giannakopoulos and Pikrakis, Introduction to Audio Analysis (2014), and pyAudioAnalysis (PLoS ONE 10(12), 2015); the
entropies use all samples and bins of a window, not only a multiple of ten. MFCC: Davis and Mermelstein (1980). Mel
bands: Slaney's Auditory Toolbox (1998) and the HTK Book. Chroma: Ellis (2007). Descriptors that librosa has, too, are
equal to librosa's.
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
    "energy-entropy": "entropy of the energy over ten parts of the window, in bits: low at onsets and offsets",
    "centroid": "spectral centroid: mean frequency, weighted by magnitude, in Hz",
    "spread": "spectral spread: standard deviation of the frequency around the centroid, in Hz",
    "spectral-entropy": "entropy of the energy over ten bands of equal width, in bits: low for a tone",
    "flux": "spectral flux: squared distance of the magnitudes, normalized to sum 1, to the previous window",
    "rolloff": "frequency below which 90 % of the energy lies, in Hz",
    "mfcc": "mel-frequency cepstral coefficients, from the natural logarithm of the mel spectrogram",
    "mfcc-delta": "slope of the coefficients over nine windows, per window",
    "mfcc-delta2": "curvature of the coefficients over nine windows, per window squared",
    "chroma": "energy of the twelve pitch classes (A4 at 440 Hz), the largest at 1",
    "chroma-deviation": "standard deviation of the twelve pitch classes",
    "mel": "mel spectrogram: energy in bands on a scale of perceived pitch",
    "log-mel": "natural logarithm of the mel spectrogram",
}
MEL_SCALES = ("slaney", "htk")
PITCH_CLASSES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
ENTROPY_PARTS = 10
ROLLOFF = 0.9
LOG_FLOOR = 1e-10
DELTA_ORDERS = {"mfcc-delta": 1, "mfcc-delta2": 2}
# Width of a delta in windows, as in librosa.
DELTA_WIDTH = 9
ENERGY_DESCRIPTORS = {"energy", "rms", "energy-entropy"}
_OF_MAGNITUDES = {"centroid", "spread", "flux"}
_OF_MELS = {"mel", "log-mel", "mfcc"}
_OF_PITCHES = {"chroma", "chroma-deviation"}
_TINY = 1e-20
# Samples of windows that are computed at a time: their spectra fit into a CPU's cache, or fill a GPU.
_CHUNK_SAMPLES_CPU, _CHUNK_SAMPLES_GPU = 2**19, 2**25


class Frontend(NamedTuple):
    """Settings of the computation, see `SpectralFeatureExtractor`: lengths in samples, frequencies in Hz."""

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
        """Return the number of values of a descriptor."""
        if name.startswith("mfcc"):
            return self.n_mfcc
        return {"chroma": len(PITCH_CLASSES), "mel": self.n_mels, "log-mel": self.n_mels}.get(name, 1)


class PackedClips(NamedTuple):
    """Clips in one row, separated by zeros so that no window overlaps two clips."""

    samples: torch.Tensor
    """Samples of all clips, shape (samples,); window `slot` begins at sample `slot * hop_length`."""
    slots: list[int]
    """Slot of each clip's first window."""
    counts: list[int]
    """Windows of each clip."""
    borders: torch.Tensor
    """First sample of each clip and first sample after each clip, shape (2 * clips,)."""

    @property
    def total(self) -> int:
        """Number of slots, including those between clips."""
        return self.slots[-1] + self.counts[-1]


def pack(clips: Sequence[torch.Tensor], frontend: Frontend) -> PackedClips:
    """Pack clips, each of shape (samples,), into one row."""
    hop, half = frontend.hop_length, frontend.n_fft // 2
    counts = [1 + len(clip) // hop for clip in clips]
    slots = [0]
    for clip in clips:
        slots.append(slots[-1] + -(-(len(clip) + half) // hop))
    starts = [half + slot * hop for slot in slots[:-1]]
    ends = [start + len(clip) for start, clip in zip(starts, clips, strict=True)]
    size = max(ends[-1], (slots[-2] + counts[-1] - 1) * hop + frontend.n_fft)
    samples = clips[0].new_empty(size)
    for clip, previous_end, start, end in zip(clips, (0, *ends), starts, ends, strict=False):
        samples[previous_end:start] = 0
        samples[start:end] = clip
    samples[ends[-1] :] = 0
    return PackedClips(samples, slots[:-1], counts, torch.tensor([*starts, *ends], device=samples.device))


def compute_descriptors(
    clips: Sequence[torch.Tensor], names: Sequence[str], frontend: Frontend
) -> tuple[torch.Tensor, list[int]]:
    """Return descriptors of clips, zero in the padding, shape (clips, windows, size), and the windows of each clip.

    Args:
        clips: waveforms, each of shape (samples,), float with full scale at 1.0, on one device.
        names: names from `DESCRIPTORS`; their values are concatenated in this order.
    """
    packed = pack(clips, frontend)
    required = frozenset("mfcc" if name in DELTA_ORDERS else name for name in names)
    descriptors = {name: packed.samples.new_empty(packed.total, frontend.width(name)) for name in required}
    step = max(1, (_CHUNK_SAMPLES_CPU if packed.samples.device.type == "cpu" else _CHUNK_SAMPLES_GPU) // frontend.n_fft)
    for first in range(0, packed.total, step):
        last = min(first + step, packed.total)
        computed = _from_samples(packed, first, last, required, frontend)
        computed |= _from_spectra(packed, first, last, required, frontend)
        for name in required:
            descriptors[name][first:last] = computed[name]
    if "flux" in required:
        descriptors["flux"][packed.slots] = 0
    for name in DELTA_ORDERS.keys() & set(names):
        descriptors[name] = deltas(descriptors["mfcc"], packed, DELTA_ORDERS[name])
    width = sum(frontend.width(name) for name in names)
    values = packed.samples.new_empty(len(clips), max(packed.counts), width)
    for row, slot, count in zip(values, packed.slots, packed.counts, strict=True):
        torch.cat([descriptors[name][slot : slot + count] for name in names], dim=1, out=row[:count])
        row[count:] = 0
    return values, packed.counts


def _from_samples(
    packed: PackedClips, first: int, last: int, required: frozenset[str], frontend: Frontend
) -> dict[str, torch.Tensor]:
    """Compute the descriptors that follow from the samples, as differences of cumulative sums."""
    computed: dict[str, torch.Tensor] = {}
    window = frontend.win_length
    start = first * frontend.hop_length + (frontend.n_fft - window) // 2
    samples = packed.samples[start : start + (last - 1 - first) * frontend.hop_length + window]
    starts = torch.arange(last - first, device=samples.device)[:, None] * frontend.hop_length
    if "zcr" in required:
        negative = samples < -LOG_FLOOR
        crossings = negative[1:] != negative[:-1]
        borders = packed.borders - start - 1
        crossings[borders[(borders >= 0) & (borders < len(crossings))]] = False
        sums = _cumulative_sums(crossings, torch.int32)
        computed["zcr"] = (sums[starts + window - 1] - sums[starts]) / window
    if required & ENERGY_DESCRIPTORS:
        sums = _cumulative_sums(samples.double().square_(), torch.float64)
        energy = ((sums[starts + window] - sums[starts]) / window).to(samples.dtype)
        computed |= {"energy": energy, "rms": energy.sqrt()}
        if "energy-entropy" in required:
            edges = torch.arange(ENTROPY_PARTS + 1, device=samples.device) * window // ENTROPY_PARTS
            computed["energy-entropy"] = entropy(sums[starts + edges].diff(dim=1).to(samples.dtype))
    return computed


def _cumulative_sums(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the sum of the values before each position and after the last, shape (values + 1,)."""
    sums = torch.zeros(len(values) + 1, dtype=dtype, device=values.device)
    torch.cumsum(values, 0, dtype=dtype, out=sums[1:])
    return sums


def _from_spectra(
    packed: PackedClips, first: int, last: int, required: frozenset[str], frontend: Frontend
) -> dict[str, torch.Tensor]:
    if not required - ENERGY_DESCRIPTORS - {"zcr"}:
        return {}
    tables = make_tables(frontend, required, packed.samples.device)
    # The flux of the first window needs the previous one.
    extra = int("flux" in required and first > 0)
    shape, start = (last - first + extra, frontend.n_fft), (first - extra) * frontend.hop_length
    windows = packed.samples.as_strided(shape, (frontend.hop_length, 1), start)
    squares = torch.view_as_real(torch.fft.rfft(windows * tables.hann)).square_()
    return spectral_descriptors(squares[..., 0] + squares[..., 1], extra, required, frontend, tables)


def spectral_descriptors(
    power: torch.Tensor, extra: int, required: frozenset[str], frontend: Frontend, tables: Tables
) -> dict[str, torch.Tensor]:
    """Compute the descriptors that follow from power spectra.

    Args:
        power: power spectra of consecutive windows, shape (windows, bins) or (clips, windows, bins).
        extra: 1 if the first window is only used for the flux of the second, else 0; the first flux is then 0.
        required: names from `DESCRIPTORS`; further ones may be computed.
        tables: result of `make_tables`.

    Returns:
        Name -> values, shape (windows - extra, width) or (clips, windows - extra, width).
    """
    computed: dict[str, torch.Tensor] = {}
    if required & _OF_MAGNITUDES:
        computed |= _from_magnitudes(power.sqrt(), extra, required, frontend.sampling_rate, tables.offsets)
    power = power[..., extra:, :]
    if "rolloff" in required:
        cumulative = power.cumsum(dim=-1)
        bins = (cumulative < ROLLOFF * cumulative[..., -1:]).sum(dim=-1, keepdim=True)
        computed["rolloff"] = bins * (frontend.sampling_rate / frontend.n_fft)
    sums = dict(zip(tables.summed, (power @ tables.sums).split(tables.widths, dim=-1), strict=False))
    if required & _OF_MELS:
        mel = sums["mel"] if frontend.power == 2 else power ** (frontend.power / 2) @ tables.mel_bank
        computed["mel"] = mel
        if required & {"log-mel", "mfcc"}:
            computed["log-mel"] = log = (mel + frontend.log_offset).clamp_(min=LOG_FLOOR).log_()
            if "mfcc" in required:
                computed["mfcc"] = log @ tables.cosines
    if required & _OF_PITCHES:
        chroma = sums["chroma"] / sums["chroma"].amax(dim=-1, keepdim=True).clamp(min=_TINY)
        centered = chroma - chroma.mean(dim=-1, keepdim=True)
        computed |= {"chroma": chroma, "chroma-deviation": centered.square_().mean(dim=-1, keepdim=True).sqrt()}
    if "spectral-entropy" in required:
        computed["spectral-entropy"] = entropy(sums["spectral-entropy"])
    return computed


def _from_magnitudes(
    magnitude: torch.Tensor, extra: int, required: frozenset[str], rate: int, offsets: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Compute centroid, spread and flux; the first `extra` windows are only used for the flux of the next."""
    total = magnitude.sum(dim=-1, keepdim=True)
    weights = magnitude / total.clamp(min=_TINY)
    computed: dict[str, torch.Tensor] = {}
    if "flux" in required:
        steps = weights[..., 1:, :] - weights[..., :-1, :]
        flux = torch.linalg.vector_norm(steps, dim=-1, keepdim=True).square_()
        computed["flux"] = flux if extra else torch.nn.functional.pad(flux, (0, 0, 1, 0))
    if required & {"centroid", "spread"}:
        # Moments around the middle of the spectrum, for the smallest rounding error of the squares.
        mean = (weights @ offsets)[..., extra:, None]
        square = (weights @ offsets.square())[..., extra:, None]
        is_audible = total[..., extra:, :] > _TINY
        computed["centroid"] = (mean + rate / 4) * is_audible
        computed["spread"] = (square - mean.square()).clamp(min=0).sqrt()
    return computed


def entropy(energies: torch.Tensor) -> torch.Tensor:
    """Return the entropy in bits of the energies of a window's parts; 0 for silence."""
    fractions = energies / energies.sum(dim=-1, keepdim=True).clamp(min=_TINY)
    return (fractions * fractions.clamp(min=_TINY).log()).sum(dim=-1, keepdim=True) / -math.log(2)


def deltas(values: torch.Tensor, packed: PackedClips, order: int) -> torch.Tensor:
    """Return the slope (order 1) or curvature (order 2) over time.

    A line or a parabola is fitted to nine windows by least squares (Savitzky & Golay 1964, as in librosa): near the
    ends of a clip to its first or last nine windows, and in shorter clips to all windows. `values` are those of all
    slots, shape (slots, size).
    """
    inner = torch.zeros_like(values)
    if len(values) >= DELTA_WIDTH:
        for offset, weight in enumerate(derivative_weights(DELTA_WIDTH, order)):
            inner[: 1 - DELTA_WIDTH].add_(values[offset : len(values) - DELTA_WIDTH + 1 + offset], alpha=weight)
    index = torch.zeros(len(values), dtype=torch.long)
    for slot, count in zip(packed.slots, packed.counts, strict=True):
        if count >= DELTA_WIDTH:
            middle = torch.arange(count) - DELTA_WIDTH // 2
            index[slot : slot + count] = middle.clamp_(0, count - DELTA_WIDTH).add_(slot)
    derivatives = inner[index.to(values.device)]
    for slot, count in zip(packed.slots, packed.counts, strict=True):
        if count < DELTA_WIDTH:
            weights = torch.tensor(derivative_weights(count, order)).to(values)
            derivatives[slot : slot + count] = weights @ values[slot : slot + count]
    return derivatives


@functools.cache
def derivative_weights(width: int, order: int) -> list[float]:
    """Return the weights of `width` windows for the derivative of the polynomial of this order, fitted to them."""
    if width <= order:
        return [0.0] * width
    times = np.arange(width) - (width - 1) / 2
    weights: list[float] = (math.factorial(order) * np.linalg.pinv(np.vander(times, order + 1))[0]).tolist()
    return weights


class Tables(NamedTuple):
    """Constant matrices of the computation."""

    hann: torch.Tensor
    """Hann window, padded to the transform's length, shape (n_fft,)."""
    sums: torch.Tensor
    """Weights of all required sums over the power spectrum, side by side, shape (bins, sum of `widths`)."""
    summed: list[str]
    """Names of these sums."""
    widths: list[int]
    """Number of values of each sum, and of the padding at the end."""
    mel_bank: torch.Tensor
    """Mel filter bank, shape (bins, n_mels)."""
    cosines: torch.Tensor
    """Discrete cosine transform, shape (n_mels, n_mfcc)."""
    offsets: torch.Tensor
    """Frequency of each bin minus that of the middle one in Hz, shape (bins,)."""


@functools.lru_cache(maxsize=16)
def make_tables(frontend: Frontend, required: frozenset[str], device: torch.device) -> Tables:
    """Return the matrices that descriptors need, on a device."""
    fft, rate = frontend.n_fft, frontend.sampling_rate
    bins = fft // 2 + 1
    hann = np.zeros(fft)
    window, left = frontend.win_length, (fft - frontend.win_length) // 2
    hann[left : left + window] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    is_slaney = frontend.mel_scale == "slaney"
    mel_bank = mel_filter_bank(
        *(bins, frontend.n_mels, frontend.f_min, frontend.f_max, rate),
        norm="slaney" if is_slaney else None,
        mel_scale=frontend.mel_scale,
        triangularize_in_mel_space=not is_slaney,
    )
    summed: dict[str, np.ndarray] = {}
    if required & _OF_MELS and frontend.power == 2:
        summed["mel"] = mel_bank
    if required & _OF_PITCHES:
        summed["chroma"] = chroma_filter_bank(fft, len(PITCH_CLASSES), rate).T
    if "spectral-entropy" in required:
        summed["spectral-entropy"] = np.eye(ENTROPY_PARTS)[np.arange(bins) * ENTROPY_PARTS // bins]
    widths = [table.shape[1] for table in summed.values()]
    # Padded with zeros: matrix products are up to three times as fast if the width is a multiple of 16.
    widths.append(-sum(widths) % 16)
    angles = np.outer(np.arange(frontend.n_mels) + 0.5, np.arange(frontend.n_mfcc))
    cosines = np.cos(np.pi / frontend.n_mels * angles) * np.sqrt(2 / frontend.n_mels)
    cosines[:, 0] /= np.sqrt(2)
    offsets = np.arange(bins) * rate / fft - rate / 4

    def to_tensor(table: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(table, dtype=np.float32)).to(device)

    sums = np.concatenate([*summed.values(), np.zeros((bins, widths[-1]))], axis=1)
    rest = map(to_tensor, (mel_bank, cosines, offsets))
    return Tables(to_tensor(hann), to_tensor(sums), [*summed], widths, *rest)
