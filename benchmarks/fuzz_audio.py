"""Damaged and hostile sound files: what decoding does with them.

    python benchmarks/fuzz_audio.py --count 200000
    python benchmarks/fuzz_audio.py --atheris -max_total_time=600

A short clip in every format that libsndfile writes, as Opus in WebM, and with hostile headers is mutated at random:
bits and sizes are changed, and parts removed, repeated and exchanged. Each result is decoded as a whole and in blocks.
Printed are exceptions other than `AudioError`, outputs that are not finite or beyond full scale, differences between
the whole and the blocks, lines that libraries print to stdout, the peak memory and the longest time. Inputs that fail
are written to --out. Decoding by ffmpeg is left out. With --atheris, inputs are found by coverage (`pip install
atheris`); the other options are those of libFuzzer.
"""

import argparse
import logging
import multiprocessing
import os
import re
import struct
import sys
import tempfile
import time
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["PATH"] = ""

import numpy as np
import soundfile

from ser_ft.audio import AudioError, decode, decode_blocks
from ser_ft.utils.errors import AUDIO_LOGGER

logging.getLogger(AUDIO_LOGGER).disabled = True

NUMBERS = (
    0,
    1,
    2,
    7,
    0x7F,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x10000,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    2**40,
    2**63 - 1,
    2**64 - 1,
)
SLOW_SECONDS = 10.0
CHUNKS = (b"data", b"fmt ", b"fact", b"LIST", b"ds64", b"SSND", b"COMM", b"ID3\x04", b"OggS", b"fLaC", b"BW64", b"RF64")


def webm(packets: list[bytes], head: bytes) -> bytes:
    """Write Opus packets as WebM."""

    def element(kind: str, value: bytes) -> bytes:
        return bytes.fromhex(kind) + struct.pack(">Q", len(value) | 1 << 56) + value

    track = element("ae", element("d7", b"\x01") + element("86", b"A_OPUS") + element("63a2", head))
    blocks = b"".join(element("a3", b"\x81\0\0\x80" + packet) for packet in packets)
    body = element("1654ae6b", track) + element("1f43b675", element("e7", b"\0") + blocks)
    return element("1a45dfa3", element("4282", b"webm")) + element("18538067", body)


def ogg_packets(content: bytes) -> list[bytes]:
    """Return the packets of an Ogg file."""
    packets, rest, position = [], b"", 0
    while position < len(content):
        lacing = content[position + 27 : position + 27 + content[position + 26]]
        position += 27 + len(lacing)
        for size in lacing:
            rest += content[position : position + size]
            position += size
            if size < 255:
                packets.append(rest)
                rest = b""
    return packets


def seeds() -> list[bytes]:
    """Return the files that are mutated."""
    time_axis = np.arange(2400) / 8000
    voice = sum(np.sin(2 * np.pi * 150 * n * time_axis) / n for n in range(1, 12)) * np.hanning(2400)
    sounds = [(0.3 * voice).astype(np.float32), np.stack([voice, -voice], axis=1).astype(np.float32) * 0.2]
    files = []
    # For SD2, libsndfile writes a second file, and RAW has no header.
    for kind in sorted(soundfile.available_formats().keys() - {"SD2", "RAW"}):
        written = []
        for subtype in soundfile.available_subtypes(kind):
            for sound in sounds:
                file = BytesIO()
                try:
                    soundfile.write(file, sound, 8000, format=kind, subtype=subtype)
                except (soundfile.LibsndfileError, ValueError):
                    continue
                written.append(file.getvalue())
        # Of formats that are not decoded, one file is enough.
        decoded = [content for content in written if check(content) == "decoded"]
        files += decoded or written[:1]
    opus = BytesIO()
    soundfile.write(opus, np.repeat(sounds[0], 6), 48_000, format="OGG", subtype="OPUS")
    head, _, *packets = ogg_packets(opus.getvalue())
    plain = BytesIO()
    soundfile.write(plain, sounds[0], 8000, format="WAV", subtype="PCM_16")
    wav = plain.getvalue()
    sizes = struct.pack("<4sIQQQI", b"ds64", 28, len(wav) + 28, len(wav) - 44, 2400, 0)
    files += [
        webm(packets, head),
        wav[:40] + bytes(4) + wav[44:],
        wav[:12] + b"LIST\x05\0\0\0hello" + wav[12:],
        b"BW64\xff\xff\xff\xffWAVE" + sizes + wav[12:40] + b"\xff\xff\xff\xff" + wav[44:],
        b"ID3\x04\0\0\0\0\x01\0" + bytes(128) + wav,
    ]
    return files


def mutate(files: list[bytes], generator: np.random.Generator) -> bytes:
    """Return a mutated file."""
    content = bytearray(files[generator.integers(len(files))])
    for _ in range(generator.integers(1, 4)):
        size = len(content)
        if size < 16:
            break
        header = min(size, 200) if generator.random() < 0.7 else size
        position = int(generator.integers(header))
        kind = generator.integers(7)
        if kind == 0:
            for place in generator.integers(0, header, generator.integers(1, 17)):
                content[place] ^= 1 << generator.integers(8)
        elif kind == 1:
            width = int(generator.choice([1, 2, 4, 8]))
            number = int(NUMBERS[generator.integers(len(NUMBERS))]) % 2 ** (8 * width)
            content[position : position + width] = number.to_bytes(
                width, "little" if generator.random() < 0.6 else "big"
            )
        elif kind == 2:
            del content[int(generator.integers(size)) :]
        elif kind == 3:
            other = files[generator.integers(len(files))]
            start = int(generator.integers(len(other)))
            content[position:] = other[start:]
        elif kind == 4:
            content[position:position] = content[position : position + int(generator.integers(1, 600))]
        elif kind == 5:
            number = generator.choice([np.nan, np.inf, -np.inf, 1e38, 3e4, 300.0, 1.5])
            content[position // 4 * 4 : position // 4 * 4 + 4] = struct.pack("<f", number)
        else:
            content[position : position + 4] = CHUNKS[generator.integers(len(CHUNKS))]
    return bytes(content)


def check(content: bytes) -> str:
    """Decode a file as a whole and in blocks; return "decoded", "refused", or what is wrong."""
    results: list[Any] = []
    for read in (decode, lambda file: np.concatenate(list(decode_blocks(file, 0.05)))):
        try:
            samples = read(content)
        except AudioError as error:
            results.append(error)
            if "\n" in str(error) or not str(error).isprintable():
                return f"a message that is not one line: {error!r}"
            continue
        except Exception as error:
            # What is said, without the numbers in it.
            return re.sub(r"\d+", "N", f"{type(error).__name__}: {error}")[:150]
        results.append(samples)
        if samples.dtype != np.float32 or samples.ndim != 1 or not np.abs(samples).max(initial=0.0) <= 1:
            return "samples that are not finite or beyond full scale"
    whole, blocks = results
    if isinstance(whole, AudioError):
        return "refused"
    if isinstance(blocks, AudioError) or len(blocks) != len(whole) or np.abs(blocks - whole).max(initial=0.0) > 1e-5:
        return "blocks that differ from the whole"
    return "decoded"


def fuzz(seed: int, count: int, out: Path, results: Any) -> None:
    """Check mutated files, and report the outcomes, the longest time, the peak memory and the lines on stdout."""
    files = seeds()
    with tempfile.TemporaryFile() as printed:
        stdout, null = os.dup(1), os.open(os.devnull, os.O_WRONLY)
        os.dup2(printed.fileno(), 1)
        os.dup2(null, 2)  # libmpg123 writes about damaged files to stderr
        outcomes: Counter[str] = Counter()
        longest = 0.0
        for index in range(count):
            content = mutate(files, np.random.default_rng((seed, index)))
            started = time.perf_counter()
            outcome = check(content)
            seconds = time.perf_counter() - started
            longest = max(longest, seconds)
            if seconds > SLOW_SECONDS:
                outcome = f"more than {SLOW_SECONDS:.0f} s"
            outcomes[outcome] += 1
            if outcome not in ("decoded", "refused") and outcomes[outcome] <= 3:
                (out / f"{seed}-{index}.bin").write_bytes(content)
        os.dup2(stdout, 1)
        printed.seek(0)
        lines = printed.read().decode(errors="replace").splitlines()
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]
    results.put((outcomes, longest, peak, lines))


def run_atheris(arguments: list[str]) -> None:
    """Search for inputs that fail with atheris."""
    import atheris

    atheris.instrument_all()

    def test(content: bytes) -> None:
        outcome = check(content)
        if outcome not in ("decoded", "refused"):
            raise AssertionError(outcome)

    with tempfile.TemporaryDirectory() as corpus:
        for index, content in enumerate(seeds()):
            Path(corpus, f"{index}.bin").write_bytes(content)
        atheris.Setup([sys.argv[0], "-max_len=20000", "-rss_limit_mb=1024", *arguments, corpus], test)
        atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000, help="number of files (default: 20,000)")
    parser.add_argument("--workers", type=int, default=2, help="number of processes (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the mutations (default: 0)")
    parser.add_argument("--out", type=Path, default=Path("fuzz_audio"), help="folder for inputs that fail")
    parser.add_argument("--atheris", action="store_true", help="search by coverage")
    options, rest = parser.parse_known_args()
    if options.atheris:
        run_atheris(rest)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    share = -(-options.count // options.workers)
    workers = [
        context.Process(target=fuzz, args=(options.seed * 1000 + index, share, options.out, results))
        for index in range(options.workers)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    crashed = [worker.exitcode for worker in workers if worker.exitcode]
    outcomes: Counter[str] = Counter()
    reports = [results.get() for _ in range(options.workers - len(crashed))]
    for report in reports:
        outcomes += report[0]
    for outcome, number in outcomes.most_common():
        print(f"{number:8,} {outcome}")
    print(f"crashes: {len(crashed)} {crashed or ''}")
    print(f"longest time: {max(report[1] for report in reports):.2f} s")
    print(f"peak memory of a process: {max(report[2] for report in reports):.0f} MiB")
    lines = [line for report in reports for line in report[3]]
    print(f"lines on stdout: {len(lines)} {lines[:10] or ''}")


if __name__ == "__main__":
    main()
