"""Summary of a conversation in plain sentences, which fixed rules derive from its numbers."""

from __future__ import annotations

from collections.abc import Iterator

from .conversation import Conversation, Speaker, emotion_shares
from .intervals import total_seconds
from .negative_segments import adjective, longest

MIN_SPEECH_FOR_SHARES = 20.0
"""Seconds of speech below which shares mean little."""
ENDING_SECONDS = 15.0
"""Seconds at the end of a speaker's speech that describe how the conversation ends."""
_MIN_LONG_PAUSE = 10.0
_RESPONSE_SECONDS = 5.0  # after a negative segment, in which another speaker still responds to it
_MIN_SPEECH_IN_PART = 4.0  # seconds of speech that a short part needs to be described
_MAX_SILENCE_BEFORE_END = 30.0  # a speaker who is silent for longer is not described at the end
_MIN_TREND = 0.2  # smallest reported difference between the first and the last third, as a share of the speech


def clock(seconds: float) -> str:
    """Format a time as "0:07", "12:40" or "1:02:03"."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def percent(share: float) -> str:
    """Format a share as "42 %", or as "under 1 %" if it rounds to 0 but is larger."""
    return "under 1 %" if 0 < share < 0.005 else f"{share * 100:.0f} %"


def summarize(conversation: Conversation) -> list[str]:
    """Describe who talked, how each speaker sounded, what stands out and how the conversation ended.

    The sentences say how speakers sounded, never how they felt. The most general sentence is the first.
    """
    lines = [_talk(conversation), *_longest_pause(conversation)]
    speakers = [speaker for speaker in conversation.speakers if speaker.has_predictions]
    if not speakers:
        return [*lines, "There was too little speech to analyze."]
    lines += [_main_emotions(speaker) for speaker in speakers]
    if conversation.negative_classes:
        lines += [*_negative_segments(speakers), *_responses(conversation, speakers)]
        lines += [line for speaker in speakers for line in _trend(conversation, speaker)]
    lines += _ending(conversation, speakers)
    return [line[0].upper() + line[1:] for line in lines]


def _talk(conversation: Conversation) -> str:
    duration = conversation.duration
    nobody = f"nobody for {_time_and_share(conversation.silence, duration)}"
    if conversation.mixed:
        return f"somebody talked for {_time_and_share(duration - conversation.silence, duration)}, {nobody}."
    first, *others = conversation.speakers
    parts = [f"{first.name} talked for {_time_and_share(first.speech_seconds, duration)}"]
    parts += [f"{speaker.name} for {_time_and_share(speaker.speech_seconds, duration)}" for speaker in others]
    both = f", and two at once for {_time_and_share(conversation.overlap, duration)}" if others else ""
    return f"{', '.join(parts)}, {nobody}{both}."


def _longest_pause(conversation: Conversation) -> Iterator[str]:
    start, end = max(conversation.pauses, key=lambda pause: pause[1] - pause[0], default=(0.0, 0.0))
    if end - start >= _MIN_LONG_PAUSE:
        yield f"the longest pause, {clock(end - start)}, began at {clock(start)}."


def _main_emotions(speaker: Speaker) -> str:
    """Describe a speaker by the larger of two shares: the most frequent emotion, or what is uncertain."""
    ranked = sorted(speaker.emotion_shares.items(), key=lambda pair: -pair[1])
    others = [f"{adjective(name)} ({percent(share)})" for name, share in ranked[1:3] if share >= 0.1]
    name, share = ranked[0]
    if speaker.main_emotion is not None:
        first = f"{adjective(name)} ({percent(share)} of the speech)"
        line = f"{speaker.name} sounded {_enumerate([first, *others])}"
        if speaker.uncertain_share >= 0.3:
            line += f"; {percent(speaker.uncertain_share)} was too uncertain to name"
    elif share:
        line = f"{speaker.name}: {percent(speaker.uncertain_share)} of the speech was too uncertain to name an emotion;"
        line += f" the rest sounded mostly {_enumerate([f'{adjective(name)} ({percent(share)})', *others])}"
    else:
        return f"{speaker.name}: the speech was too uncertain to name an emotion."
    if speaker.speech_seconds < MIN_SPEECH_FOR_SHARES:
        line += f"; that is {speaker.speech_seconds:.0f} s of speech, too little for shares to mean much"
    return line + "."


def _negative_segments(speakers: list[Speaker]) -> Iterator[str]:
    for speaker in speakers:
        segment = longest(speaker.negative_segments)
        if segment is None:
            continue
        count = len(speaker.negative_segments)
        yield (
            f"{speaker.name} sounded negative in {'one segment' if count == 1 else f'{count} segments'}, "
            f"{percent(speaker.negative_share or 0.0)} of the speech; {'' if count == 1 else 'the longest '}"
            f"from {clock(segment.start)} to {clock(segment.end)}, mostly {adjective(segment.emotion)}."
        )
    if without := [speaker.name for speaker in speakers if not speaker.negative_segments]:
        yield f"no negative segment was found for {_enumerate(without)}."
    starts = sorted((s.negative_segments[0].start, s.name) for s in speakers if s.negative_segments)
    if len(starts) > 1:
        (start, name), (later, other) = starts[:2]
        yield f"{name} was the first to sound negative, at {clock(start)}; {other} followed at {clock(later)}."


def _responses(conversation: Conversation, speakers: list[Speaker]) -> Iterator[str]:
    """Describe each other speaker during a speaker's longest negative segment and just after it."""
    for speaker in speakers:
        segment = longest(speaker.negative_segments)
        for other in speakers:
            if segment is None or other is speaker:
                continue
            start, end = segment.start, min(segment.end + _RESPONSE_SECONDS, conversation.duration)
            emotion = _majority_emotion(conversation, other, start, end)
            if emotion is not None:
                when = f"from {clock(start)} to {clock(end)}, while {speaker.name} sounded negative and just after"
                yield f"{when}, {other.name} sounded mostly {adjective(emotion)}."


def _trend(conversation: Conversation, speaker: Speaker) -> Iterator[str]:
    duration = conversation.duration
    thirds = (0.0, duration / 3), (2 * duration / 3, duration)
    parts = [emotion_shares(speaker.windows, conversation.model, *third)[0] for third in thirds]
    first, last = (sum(part[name] for name in conversation.negative_classes) for part in parts)
    enough = all(total_seconds(speaker.speech, *third) >= MIN_SPEECH_FOR_SHARES / 2 for third in thirds)
    if enough and all(any(part.values()) for part in parts) and abs(last - first) >= _MIN_TREND:
        emotions = _enumerate([*map(adjective, conversation.negative_classes)], "or")
        yield (
            f"the share of {speaker.name}'s speech that sounded {emotions} {'fell' if last < first else 'rose'} from "
            f"{percent(first)} in the first third to {percent(last)} in the last."
        )


def _ending(conversation: Conversation, speakers: list[Speaker]) -> Iterator[str]:
    parts: list[str] = []
    for speaker in speakers:
        last = max((end for _, end in speaker.speech), default=0.0)
        emotion = _majority_emotion(conversation, speaker, last - ENDING_SECONDS, conversation.duration)
        if emotion is not None and conversation.duration - last <= _MAX_SILENCE_BEFORE_END:
            parts.append(f"{speaker.name} {'' if parts else 'sounded '}{adjective(emotion)}")
    if parts:
        yield f"at the end {_enumerate(parts)}."


def _majority_emotion(conversation: Conversation, speaker: Speaker, start: float, end: float) -> str | None:
    """Return the emotion of half or more of the speech between two times; None without one or with little speech."""
    by_emotion, _ = emotion_shares(speaker.windows, conversation.model, start, end)
    name, share = max(by_emotion.items(), key=lambda pair: pair[1])
    return name if share >= 0.5 and total_seconds(speaker.speech, start, end) >= _MIN_SPEECH_IN_PART else None


def _time_and_share(seconds: float, duration: float) -> str:
    return f"{clock(seconds)} ({percent(seconds / duration)})"


def _enumerate(words: list[str], conjunction: str = "and") -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {conjunction} {words[-1]}"
