"""Audio input: decoding, resampling, streaming, voice activity detection and listing of files."""

from __future__ import annotations

from .containers import FFMPEG_SUFFIXES as FFMPEG_SUFFIXES
from .containers import SUFFIXES as SUFFIXES
from .errors import AudioError as AudioError
from .filters import SAMPLE_RATE as SAMPLE_RATE
from .filters import HighPass as HighPass
from .filters import resample as resample
from .io import HEADER_BYTES as HEADER_BYTES
from .io import LONG_SECONDS as LONG_SECONDS
from .io import MAX_BYTES as MAX_BYTES
from .io import MAX_SECONDS as MAX_SECONDS
from .io import DecodedClip as DecodedClip
from .io import decode as decode
from .io import decode_blocks as decode_blocks
from .io import decode_clip as decode_clip
from .io import from_wav as from_wav
from .io import read_file as read_file
from .io import to_wav as to_wav
from .mono import MonoConverter as MonoConverter
from .reader import AudioReader as AudioReader
from .reader import Source as Source
from .reader import open_audio as open_audio
from .samples import SILENCE_PEAK as SILENCE_PEAK
from .samples import from_pcm16 as from_pcm16
from .samples import is_silent as is_silent
from .samples import to_pcm16 as to_pcm16
