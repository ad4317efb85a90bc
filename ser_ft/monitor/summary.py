"""What a conversation sounded like, in plain sentences made from its numbers by rules."""

from __future__ import annotations

from collections.abc import Iterator

from . import intervals
from .conversation import Conversation, Voice, shares
from .negative_segments import adjective, longest

LITTLE = 20.0
"""Seconds of speech under which shares of it mean little."""
ENDING = 15.0
"""Seconds at the end of a voice's speech that say how it ends."""
_LONG_PAUSE = 10.0
_AFTER = 5.0  # seconds after another's run in which a voice still answers it
_ENOUGH = 4.0  # seconds of speech in a short stretch under which nothing is said of it
_LATE = 30.0  # seconds before the end of a call in which a voice is heard at the end
_TREND = 0.2  # of the speech: less than this between the first and the last third is no change
_MUCH = 0.3  # of the speech


def clock(seconds: float) -> str:
    """Write a time: "0:07", "12:40", "1:02:03"."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def percent(share: float) -> str:
    """Write a share: "42 %"; what is there but rounds to nothing is "under 1 %"."""
    return "under 1 %" if 0 < share < 0.005 else f"{share * 100:.0f} %"


def feedback(call: Conversation) -> list[str]:
    """Describe a conversation: who talked, how each sounded, what stands out and how it ended.

    It says how voices sounded, never how people felt.

    Returns:
        sentences, the most general first.
    """
    lines = [_talk(call), *_pauses(call)]
    judged = [voice for voice in call.voices if voice.judged]
    if not judged:
        return [*lines, "There was too little speech to judge."]
    lines += [_sounded(voice) for voice in judged]
    if call.negative:
        lines += [
            *_dissatisfied(judged),
            *_first(judged),
            *_answers(call, judged),
            *(line for voice in judged for line in _trend(call, voice)),
        ]
    lines += _ending(call, judged)
    return [line[0].upper() + line[1:] for line in lines]


def _talk(call: Conversation) -> str:
    nobody = f"nobody for {_part(call.silence, call.duration)}"
    if call.mixed:
        return f"somebody talked for {_part(call.duration - call.silence, call.duration)}, {nobody}."
    first, *others = call.voices
    told = [f"{first.name} talked for {_part(first.spoken, call.duration)}"]
    told += [f"{voice.name} for {_part(voice.spoken, call.duration)}" for voice in others]
    both = f", and two at once for {_part(call.overlap, call.duration)}" if others else ""
    return f"{', '.join(told)}, {nobody}{both}."


def _pauses(call: Conversation) -> Iterator[str]:
    start, end = max(call.pauses, key=lambda pause: pause[1] - pause[0], default=(0.0, 0.0))
    if end - start >= _LONG_PAUSE:
        yield f"the longest pause, {clock(end - start)}, began at {clock(start)}."


def _sounded(voice: Voice) -> str:
    """Say how a voice sounded, what there is most of first: an emotion, or what is too uncertain to name."""
    ranked = sorted(voice.shares.items(), key=lambda pair: -pair[1])
    told = [f"{adjective(name)} ({percent(share)})" for name, share in ranked[1:3] if share >= 0.1]
    name, share = ranked[0]
    if voice.top is not None:
        line = f"{voice.name} sounded {_listed([f'{adjective(name)} ({percent(share)} of the speech)', *told])}"
        if voice.uncertain >= _MUCH:
            line += f"; {percent(voice.uncertain)} was too uncertain to name"
    elif share:
        line = f"{voice.name}: {percent(voice.uncertain)} of the speech was too uncertain to name an emotion; what "
        line += f"could be named sounded mostly {_listed([f'{adjective(name)} ({percent(share)})', *told])}"
    else:
        return f"{voice.name}: the speech was too uncertain to name an emotion."
    if voice.spoken < LITTLE:
        line += f"; that is {voice.spoken:.0f} s of speech, too little for shares to mean much"
    return line + "."


def _dissatisfied(voices: list[Voice]) -> Iterator[str]:
    for voice in voices:
        run = longest(voice.runs)
        if run is None:
            continue
        runs = "one run" if len(voice.runs) == 1 else f"{len(voice.runs)} runs"
        which = "" if len(voice.runs) == 1 else "the longest "
        yield (
            f"{voice.name} sounded dissatisfied in {runs}, {percent(voice.dissatisfied or 0.0)} of the speech; "
            f"{which}from {clock(run.start)} to {clock(run.end)}, mostly {adjective(run.emotion)}."
        )
    if none := [voice.name for voice in voices if not voice.runs]:
        yield f"no run of dissatisfaction was found for {_listed(none)}."


def _first(voices: list[Voice]) -> Iterator[str]:
    """Say who sounded dissatisfied first, where more than one did."""
    starts = sorted((voice.runs[0].start, voice.name) for voice in voices if voice.runs)
    if len(starts) > 1:
        (start, name), (later, other) = starts[:2]
        yield f"{name} was the first to sound so, at {clock(start)}; {other} followed at {clock(later)}."


def _answers(call: Conversation, voices: list[Voice]) -> Iterator[str]:
    """Say how each other voice sounded in a voice's longest run and just after it."""
    for voice in voices:
        run = longest(voice.runs)
        for other in voices:
            if run is None or other is voice:
                continue
            start, end = run.start, min(run.end + _AFTER, call.duration)
            name = _mostly(call, other, start, end)
            if name is not None:
                when = f"from {clock(start)} to {clock(end)}, while {voice.name} sounded so and just after"
                yield f"{when}, {other.name} sounded mostly {adjective(name)}."


def _trend(call: Conversation, voice: Voice) -> Iterator[str]:
    thirds = (0.0, call.duration / 3), (2 * call.duration / 3, call.duration)
    parts = [shares(voice.windows, call.info, *span)[0] for span in thirds]
    first, last = (sum(part[name] for name in call.negative) for part in parts)
    enough = all(intervals.seconds(voice.talk, *span) >= LITTLE / 2 for span in thirds)
    if enough and all(any(part.values()) for part in parts) and abs(last - first) >= _TREND:
        word = "fell" if last < first else "rose"
        sounds = _listed([*map(adjective, call.negative)], "or")
        yield (
            f"the share of {voice.name}'s speech that sounded {sounds} {word} from {percent(first)} in the first third "
            f"to {percent(last)} in the last."
        )


def _ending(call: Conversation, voices: list[Voice]) -> Iterator[str]:
    told: list[str] = []
    for voice in voices:
        until = max((end for _, end in voice.talk), default=0.0)
        name = _mostly(call, voice, until - ENDING, call.duration)
        if name is not None and call.duration - until <= _LATE:
            told.append(f"{voice.name} {'' if told else 'sounded '}{adjective(name)}")
    if told:
        yield f"at the end {_listed(told)}."


def _mostly(call: Conversation, voice: Voice, start: float, end: float) -> str | None:
    """Return what half or more of a voice's speech in a stretch sounds of; None: nothing, or there is little of it."""
    there, _ = shares(voice.windows, call.info, start, end)
    name = max(there, key=lambda emotion: there[emotion])
    return name if there[name] >= 0.5 and intervals.seconds(voice.talk, start, end) >= _ENOUGH else None


def _part(seconds: float, whole: float) -> str:
    return f"{clock(seconds)} ({percent(seconds / whole)})"


def _listed(words: list[str], joint: str = "and") -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {joint} {words[-1]}"
