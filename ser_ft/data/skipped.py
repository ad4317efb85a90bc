"""The skipped files, and the messages that say why all or most of them were skipped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..labels import LabelScheme, canonical_name
from ..utils.errors import InputError
from ..utils.text import count_text
from .corpora import CORPORA, REASONS

# Files that are skipped on purpose: copies, what is no clip, and emotions that the chosen scheme does not have.
_INTENDED = frozenset(
    "song other-recording resource-fork same-name same-sound known-bad not-in-scheme unused-manifest".split()
)
_ADVICE = {
    "unknown-name": "make a folder per emotion (angry/SPEAKER/clip.wav; other names need --labels NAME=CLASS,...), or "
    "list the files in a manifest.csv with the columns path, emotion and speaker",
    "not-found": "write the paths in a manifest relative to its folder, with their suffixes",
    "not-in-scheme": "choose other --labels",
    "two-labels": "give each recording one label",
}
_LABEL = "the label "


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that was skipped; `reason` is a key of `ser_ft.data.corpora.REASONS`."""

    path: str
    corpus: str
    reason: str
    detail: str


class NoClipsError(InputError):
    """No clip that can be used is at a location; `skipped` lists the files that were found."""

    def __init__(self, location: str, skipped: Sequence[Skipped]) -> None:
        self.skipped = list(skipped)
        found = "no sound files found there"
        if skipped:
            files = "the only file found cannot" if len(skipped) == 1 else f"none of {len(skipped):,} files can"
            found = f"{files} be used: {_explain(skipped)}"
        super().__init__(f"{location}: {found}")


def loss_warning(num_clips: int, skipped: Sequence[Skipped], file: Path) -> str | None:
    """Return a line that says why most files of the data are not among its clips, or None if most are.

    Files that are skipped on purpose do not count. `file` is the list of skipped files.
    """
    lost = [skip for skip in skipped if skip.reason not in _INTENDED]
    if len(lost) <= num_clips:
        return None
    total = count_text(len(lost) + num_clips, "file")
    return f"warning: {len(lost):,} of {total} are skipped: {_explain(lost)}; all are listed in {file}"


def skip_label(emotion: str, scheme: LabelScheme) -> tuple[str, str]:
    """Return the reason and the detail of a clip whose label is not in the scheme."""
    if canonical_name(emotion) is None and scheme.name != "own":
        return "unknown-label", f"{_LABEL}{emotion!r}"
    return "not-in-scheme", f"{emotion!r} is not in the label scheme {scheme.name!r}"


def _explain(skipped: Sequence[Skipped]) -> str:
    """Return the reasons with their numbers of files, and an example and advice for the main one."""
    counts = Counter(skip.reason for skip in skipped)
    # Where a manifest's paths are wrong, its lines say more than the files that it lacks.
    order = sorted(counts, key=lambda reason: (reason == "not-listed", -counts[reason]))
    main = [skip for skip in skipped if skip.reason == order[0]]
    reasons = "; ".join(f"{REASONS[reason]}: {counts[reason]:,}" for reason in order)
    path, detail = main[0].path, main[0].detail.removeprefix(f"{main[0].path}: ")
    example = f"for example {path}" + (f" ({detail})" if detail != REASONS[order[0]] else "")
    advice = _label_advice(main) if order[0] == "unknown-label" else _ADVICE.get(order[0], "")
    if order[0] == "unknown-name" and main[0].corpus in CORPORA:
        advice = f"pass these files without {main[0].corpus}="
    table = next(
        (f"{skip.path} is not used: {skip.detail}" for skip in skipped if skip.reason == "unused-manifest"), ""
    )
    return "; ".join(filter(None, (reasons, example, advice, table)))


def _labels(skipped: Sequence[Skipped]) -> list[str]:
    """Return the labels that are no known emotion, the most frequent first."""
    labels = Counter(skip.detail.removeprefix(_LABEL) for skip in skipped if skip.reason == "unknown-label")
    return [label for label, _ in labels.most_common()]


def describe_reasons(skipped: Sequence[Skipped]) -> list[str]:
    """Return a line for each reason and corpus with its number of files."""
    groups: dict[tuple[str, str], list[Skipped]] = {}
    for skip in skipped:
        groups.setdefault((skip.reason, skip.corpus), []).append(skip)
    lines = []
    for (reason, corpus), group in sorted(groups.items(), key=lambda item: -len(item[1])):
        labels = _labels(group)
        shown = f" ({', '.join(labels[:8])}{', ...' if len(labels) > 8 else ''})" if labels else ""
        lines.append(f"{len(group):5d}  {corpus or '-'}: {REASONS[reason]}{shown}")
    return lines


def _label_advice(skipped: Sequence[Skipped]) -> str:
    labels = [label.strip("'\"") for label in _labels(skipped)]
    if any(sign in label for label in labels for sign in ",;|/+="):
        return "give each recording one label"
    mapping = ",".join(f"{label}=CLASS" for label in labels[:4]) + (",..." if len(labels) > 4 else "")
    numbers = "numbers have the meaning that the data's description gives: " if labels[0].isdigit() else ""
    return f"{numbers}give each label a class, as in --labels {mapping}"
