"""A trained classifier as one .onnx file, from samples to calibrated logits, checked against the model itself."""

from __future__ import annotations

import json
import logging
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from .. import audio
from ..audio import SAMPLE_RATE
from ..audio.discovery import find_sound_files
from ..evaluation.run_folder import RunFolder, find_model_folder
from ..inference.backends import Backend, ModelInfo
from ..inference.backends.onnx import FORMAT, INPUT, KEY, OUTPUT, OnnxBackend
from ..inference.backends.torch import TorchBackend
from ..inference.inputs import AudioInput
from ..models.pretrained import PretrainedClassifier
from ..utils.errors import InputError
from ..utils.files import check_output
from ..utils.progress import progress_bar
from .encoder_frontends import make_frontend

TOLERANCE, INT8_TOLERANCE = 1e-4, 0.1
"""How far a probability may be from the model's own, by default."""
NUM_CLIPS = 32
"""As many are asked about to check a file."""
_OPSET = 17
_LARGEST = 2**31 - 2**26  # bytes of weights: protobuf holds 2 GiB
_LONGEST = 20.0  # seconds of a clip that are asked about; as long is one that only checks that length does not matter
_TURNS = 5


@dataclass(frozen=True)
class ExportResult:
    """An .onnx file, and how it compares with the model that it was made of.

    Attributes:
        path: of the file. bytes: its size. clips: that both were asked about. source: of these clips, in words.
        difference: of two probabilities, the largest. agreement: share of clips with the same most probable class.
        seconds: of the clip whose times were taken. took: seconds to answer it, the median of alternating turns.
        torch_took: the same of the model itself.
    """

    path: Path
    bytes: int
    clips: int
    source: str
    difference: float
    agreement: float
    seconds: float
    took: float
    torch_took: float


def export_onnx(
    model: str | Path,
    out: str | Path | None = None,
    *,
    int8: bool = False,
    data: str | Path | None = None,
    tolerance: float | None = None,
    overwrite: bool = False,
    verbose: bool = True,
) -> ExportResult:
    """Write a trained classifier as an .onnx file that `EmotionRecognizer` takes alone.

    Its input `waveform` is float32 at 16 kHz, shape (clips, samples), its output `logits`, shape (clips, classes):
    the features are computed inside. The file is kept only if it answers as the model itself does.

    Args:
        model: a run folder, a folder with a saved classifier, or a name on the Hub.
        out: the file; by default NAME.onnx, or NAME-int8.onnx, in the current folder.
        int8: keep the weights of matrix products as 8-bit integers, and multiply in them: smaller, faster, less exact.
        data: clips to check it on: a table that `ser-ft prepare` wrote, or a folder of sound files; by default the
            table that the run was trained on where it is still there, else synthetic voices.
        tolerance: largest difference of a probability; by default 1e-4, and 0.1 in 8 bits.
        overwrite: replace an existing file. verbose: show progress.

    Raises:
        InputError: the model cannot be had or exported, the file is there or cannot be written, there are no clips, or
            an answer is too far from the model's own; nothing is left behind then.
    """
    _check_packages()
    folder = find_model_folder(Path(model).expanduser())
    saved = PretrainedClassifier.load(str(folder or model))
    target = _target(saved, out, int8, overwrite)
    source, clips = _clips(folder, data, verbose)
    reference = TorchBackend(str(model), "cpu")
    facts = reference.info
    wanted = _answers(reference, [*clips, *_lengths(clips[0], facts.shortest)], "the model's answers", verbose)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.stem}.{os.getpid()}.onnx")
    try:
        write_onnx(saved, partial, facts, int8)
        engine = OnnxBackend(partial)
        found = _answers(engine, [*clips, *_lengths(clips[0], facts.shortest)], "the file's answers", verbose)
        difference = float(np.abs(found - wanted).max())
        most = tolerance if tolerance is not None else INT8_TOLERANCE if int8 else TOLERANCE
        if not difference <= most:
            apart = f"a probability of the file's is {difference:.2g} from the model's own, and --tolerance is {most:g}"
            raise InputError(f"{target}: not written, for {apart}")
        clip = sorted(clips, key=len)[len(clips) // 2]
        took, torch_took = _times((engine, reference), clip[None])
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    agreement = float((found.argmax(axis=1) == wanted.argmax(axis=1))[: len(clips)].mean())
    size, seconds = target.stat().st_size, len(clip) / SAMPLE_RATE
    return ExportResult(target, size, len(clips), source, difference, agreement, seconds, took, torch_took)


class WaveformClassifier(nn.Module):
    """A classifier with its features: waveforms of one length in, logits out.

    Args:
        saved: the classifier; its weights are taken over, and the way that they are normalised is settled.

    Raises:
        InputError: its feature extractor is of a kind that cannot be exported.
    """

    def __init__(self, saved: PretrainedClassifier) -> None:
        super().__init__()
        self.front_end = make_frontend(saved.extractor)
        self.network = cast(nn.Module, saved.model)
        for module in self.network.modules():
            if nn.utils.parametrize.is_parametrized(module, "weight"):
                nn.utils.parametrize.remove_parametrizations(module, "weight")

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Answer waveforms of shape (clips, samples): logits, shape (clips, classes)."""
        logits: torch.Tensor = self.network(self.front_end(waveforms)).logits
        return logits


def write_onnx(saved: PretrainedClassifier, path: Path, facts: ModelInfo, int8: bool = False) -> None:
    """Write a classifier as an .onnx file, unchecked.

    Args:
        saved: the classifier. path: the file. facts: what it is to say of itself. int8: in 8 bits.
    """
    import onnx

    # Of an odd number of SEW's frames, so that what is done about these is in the graph.
    example = torch.randn(2, max(16_000, facts.shortest), generator=torch.Generator().manual_seed(0)) * 0.1
    with _silence(), torch.no_grad():
        graph = WaveformClassifier(saved).eval()
        # By tracing. torch 2.11's newer exporter (dynamo=True) must prove what holds at every length: of SEW's pairs of
        # frames, of an LSTM's steps and of the maximum over two frames of an odd number it does not, and it then gives
        # up, or makes a file for clips of one length.
        torch.onnx.export(
            graph,
            (example,),
            path,
            dynamo=False,
            opset_version=_OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: {0: "clips", 1: "samples"}, OUTPUT: {0: "clips"}},
        )
        if int8:
            _quantise(path, saved.is_own_network)
    made = onnx.load(path)
    about = {"format": FORMAT, "sampling_rate": SAMPLE_RATE, **asdict(facts)} | ({"int8": True} if int8 else {})
    onnx.helper.set_model_props(made, {KEY: json.dumps(about)})
    onnx.save(made, path)


def _quantise(path: Path, ours: bool) -> None:
    """Turn the weights of the network, but nothing of the features, into 8-bit integers.

    In our own networks all of them, unsigned, without which onnxruntime's convolutions are slower than in float32. In
    speech encoders those of matrix products alone (in convolutions, they cost 20 times the error, and gain no speed),
    signed, and of 7 bits, which no processor's products overflow.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    nodes = onnx.load(path).graph.node
    quantize_dynamic(
        path,
        path,
        op_types_to_quantize=["MatMul", "Gemm", "Conv", "LSTM"] if ours else ["MatMul", "Gemm"],
        per_channel=True,
        reduce_range=not ours,
        weight_type=QuantType.QUInt8 if ours else QuantType.QInt8,
        nodes_to_exclude=[node.name for node in nodes if node.name.startswith("/front_end/")],
    )


def _check_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise InputError(f"to export takes what is not installed ({error}): pip install onnx") from error


def _target(saved: PretrainedClassifier, out: str | Path | None, int8: bool, overwrite: bool) -> Path:
    """Return the file to write, once it is sure that it can be."""
    weights = 4 * sum(parameter.numel() for parameter in cast(nn.Module, saved.model).parameters())
    if weights > _LARGEST:
        raise InputError(f"{saved.name}: its weights take {weights / 2**30:.1f} GiB; an .onnx file holds less than 2")
    target = out or f"{Path(saved.display_name).name}{'-int8' if int8 else ''}.onnx"
    return check_output(target, kind="file", what="an ONNX file", suffixes=(".onnx",), overwrite=overwrite)


def _clips(folder: Path | None, data: str | Path | None, verbose: bool) -> tuple[str, list[np.ndarray]]:
    """Return some clips, float32 at 16 kHz, each of shape (samples,), and where they are from."""
    from ..data.prepare import CORPUS_INFO_FILE

    if data is not None:
        path = Path(data).expanduser()
        clips = _of_table(path) if (path / CORPUS_INFO_FILE).is_file() else _of_files(path)
        return str(data), clips
    run = RunFolder(folder.parent) if folder is not None and folder.name == "model" else None
    if run is not None and run.config_file.is_file():
        prepared = (run.config.get("data") or {}).get("prepared")
        if prepared and (Path(prepared).expanduser() / CORPUS_INFO_FILE).is_file():
            return str(prepared), _of_table(Path(prepared).expanduser())
    return "synthetic voices (no recordings: --data names some)", _synthetic(verbose)


def _of_table(path: Path) -> list[np.ndarray]:
    from ..data.prepare import open_prepared

    table = open_prepared(path)
    return [audio.from_wav(table[row]["audio"]["bytes"]) for row in _some(range(len(table)))]


def _of_files(path: Path) -> list[np.ndarray]:
    files = [found.path for found in find_sound_files([path]) if found.error is None]
    if not files:
        raise InputError(f"{path}: no prepared table, and no folder with sound files")
    return [_beginning(file) for file in _some(files)]


def _beginning(file: str) -> np.ndarray:
    """Return a recording's first seconds, which may last hours."""
    most, pieces = round(_LONGEST * SAMPLE_RATE), [np.zeros(0, np.float32)]
    for block in AudioInput(file, file, Path(file)).blocks():
        pieces.append(block)
        if sum(map(len, pieces)) >= most:
            break
    return np.concatenate(pieces)[:most]


def _synthetic(verbose: bool) -> list[np.ndarray]:
    from ..data.synthetic import corpora

    chosen = _some(corpora.miniature_clips())
    spoken = [
        corpora.synthesize_clip(clip) for clip in progress_bar(chosen, desc="synthetic voices", shown=verbose, delay=2)
    ]
    return [audio.resample(sound, rate) for sound, rate in spoken]


def _some(items: Sequence[Any]) -> list[Any]:
    """Return a few, spread over all."""
    return [items[place] for place in np.unique(np.linspace(0, len(items) - 1, min(NUM_CLIPS, len(items))).astype(int))]


def _lengths(clip: np.ndarray, shortest: int) -> list[np.ndarray]:
    """Return a clip at the shortest length, one sample more, and a long one."""
    return [np.resize(clip, length) for length in (shortest, shortest + 1, int(_LONGEST * SAMPLE_RATE) + 1)]


def _answers(engine: Backend, clips: Sequence[np.ndarray], what: str, verbose: bool) -> np.ndarray:
    """Return the probabilities of clips, each asked about alone, shape (clips, classes)."""
    return np.concatenate(
        [engine.probabilities(clip[None]) for clip in progress_bar(clips, desc=what, shown=verbose, delay=2)]
    )


def _times(engines: Sequence[Backend], waveforms: np.ndarray) -> list[float]:
    """Return the seconds that each takes to answer: medians of alternating turns."""
    turns = []
    for _ in range(_TURNS):
        marks = [time.perf_counter()]
        for engine in engines:
            engine.probabilities(waveforms)
            marks.append(time.perf_counter())
        turns.append(np.diff(marks))
    return [float(seconds) for seconds in np.median(turns, axis=0)]


@contextmanager
def _silence() -> Iterator[None]:
    """Keep to ourselves that tracing follows one path, that a mel band may be empty, and quantisation's advice."""
    off = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(off)
