"""Audio input: decoding, resampling, streaming, voice activity detection and listing of files."""

from __future__ import annotations

from .io import FFMPEG_SUFFIXES as FFMPEG_SUFFIXES
from .io import HEADER_BYTES as HEADER_BYTES
from .io import MAX_BYTES as MAX_BYTES
from .io import SAMPLE_RATE as SAMPLE_RATE
from .io import SILENCE_PEAK as SILENCE_PEAK
from .io import SUFFIXES as SUFFIXES
from .io import AudioError as AudioError
from .io import Source as Source
from .io import check_sampling_rate as check_sampling_rate
from .io import decode as decode
from .io import decode_with_rate as decode_with_rate
from .io import from_pcm16 as from_pcm16
from .io import from_wav as from_wav
from .io import is_silent as is_silent
from .io import mix_down as mix_down
from .io import read_file as read_file
from .io import resample as resample
from .io import to_pcm16 as to_pcm16
from .io import to_wav as to_wav
