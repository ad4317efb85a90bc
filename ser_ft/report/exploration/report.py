"""`ser-ft explore`: what is in a data set, on one page, before anything is trained on it."""

from __future__ import annotations

import base64
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import threadpool_limits

from ... import audio
from ...data.corpora import REASONS
from ...utils.files import check_output, replace_atomically
from ...utils.progress import bar
from ..shared import plotting
from ..shared.templates import embed_png, render_template
from . import figures, map
from .findings import FULL_SCALE, findings, meaning
from .measurements import ANALYSED, DESCRIPTORS, FUNCTIONALS, MARGIN, MEASURES, Survey, survey
from .separability import NEIGHBOURS, VERSIONS, Separability, embedded, estimate_separability, known_speakers, versions
from .sources import Source, open_source
from .tables import emotion_rows, level_rows, rate_rows, speaker_rows, voice_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COMPARED = 5000
MAPPED = 1500
REPORT, CLIPS, FIGURES = "report.html", "clips.csv", "figures"
_SEED = 0
_LISTED = 200
_COLOURS = 256  # in the pictures that would be large


def explore(source: str | Path, out: str | Path | None = None, embed_audio: bool = False, verbose: bool = True) -> Path:
    """Look at a prepared table, or at a folder of recordings without labels, and report what is in it.

    Args:
        source: a table that `ser-ft prepare` wrote, or a folder of sound files, below it too.
        out: the folder to write: report.html, which holds everything; figures/, its pictures; clips.csv, a row of
            measures for each clip. By default explore-NAME in the present folder. An older report there is replaced.
        embed_audio: put the clips that are shown into the page, to be played: then it holds voices, under their corpus's
            terms. verbose: show progress bars.

    Returns:
        the page.

    Raises:
        InputError: there is nothing to look at, or `out` holds something else or cannot be written.
    """
    found = open_source(source)
    home = Path(f"explore-{found.path.resolve().name or 'data'}" if out is None else out).expanduser()
    check_out(home)
    heard = survey(found, verbose)
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{home.name}.", dir=home.resolve().parent) as work:
        fresh = Path(work) / "report"
        # Threads that wait for each other's turns take longer than one alone where a machine is busy.
        with threadpool_limits(1):
            _write(heard, fresh, embed_audio, verbose)
        replace_atomically(fresh, home.resolve())
    return home / REPORT


def check_out(out: Path) -> None:
    """Refuse to write a report over something else, or where nothing can be written.

    Raises:
        InputError: the folder is there and holds anything but such a report, or it cannot be made.
    """
    check_output(
        out,
        what="an exploration report",
        is_part=lambda entry: entry.name in (REPORT, CLIPS, FIGURES),
        is_ours=lambda folder: (folder / CLIPS).exists(),
    )


def _write(heard: Survey, folder: Path, embed_audio: bool, verbose: bool) -> None:
    look = figures.view(heard)
    draw = np.random.default_rng(_SEED)
    compared = draw.permutation(len(heard.clips))[:COMPARED]
    made = {name: numbers[compared] for name, numbers in versions(heard.clips, heard.features).items()}
    can_hold = {name: facts["classes"] for name, facts in heard.source.corpora.items()}
    told = estimate_separability(heard.clips.iloc[compared].reset_index(drop=True), made, can_hold, _SEED, verbose)
    examples = _examples(heard, look)
    pictures = folder / FIGURES
    pictures.mkdir(parents=True)
    drawn = _draw(look, made, compared, examples, pictures, verbose)
    heard.clips[["id", *_KEPT, *MEASURES]].to_csv(folder / CLIPS, index=False, float_format="%.4g")
    contents = _contents(heard, look, told, examples, drawn, embed_audio)
    (folder / REPORT).write_text(render_template("report/exploration/exploration.html.j2", contents), encoding="utf-8")


_KEPT = ("corpus", "emotion", "speaker", "gender", "intensity", "duration", "sampling_rate", "path")


def _examples(heard: Survey, look: figures.View) -> dict[int, map.Example]:
    """Read the clips that are shown: row -> example."""
    shown = {}
    for name, row in map.choose(look).items():
        clip = look.clips.loc[row].to_dict()
        samples, _ = heard.source.read(int(heard.rows[row]))
        fill = look.colours.get(name, look.shades[clip["corpus"]])
        shown[row] = map.Example(name, fill, map.trimmed(samples), clip["pitch"], clip["level"])
    return shown


def _draw(
    look: figures.View,
    made: dict[str, np.ndarray],
    compared: np.ndarray,
    examples: dict[int, map.Example],
    folder: Path,
    verbose: bool,
) -> dict[str, Path]:
    """Draw all figures that the clips have something for: name -> file."""

    def plane() -> Figure:
        shown = [name for name in VERSIONS if name in made and name != VERSIONS[1]]
        laid = {name: embedded(made[name][:MAPPED], _SEED) for name in shown}
        places = {name: points for name, (points, _) in laid.items()}
        return map.plane(look, places, compared[:MAPPED], laid[VERSIONS[0]][1])

    todo: dict[str, Callable[[], Figure]] = {}
    if look.classes:
        todo["emotions"] = lambda: figures.counts(look)
        if known_speakers(look.clips).any():
            todo["speakers"] = lambda: figures.speakers(look)
    todo["durations"] = lambda: figures.durations(look)
    todo["levels"] = lambda: figures.levels(look)
    todo["examples"] = lambda: map.examples(look.of(list(examples)), list(examples.values()))
    todo["voices"] = lambda: figures.voices(look)
    if len(look.clips) > 2:
        todo["map"] = plane
    drawn = {}
    for name, make in bar(todo.items(), desc="drawing", unit=" figures", shown=verbose):
        large = name in ("examples", "map")
        drawn[name] = plotting.save_figure(make(), folder / f"{name}.png", _COLOURS if large else None)
    return drawn


def _contents(
    heard: Survey,
    look: figures.View,
    told: Sequence[Separability],
    examples: dict[int, map.Example],
    drawn: dict[str, Path],
    embed_audio: bool,
) -> dict[str, Any]:
    """Gather what the template shows."""
    clips, source = look.clips, heard.source
    known = known_speakers(clips)
    corpora = {name: source.corpora[name] for name in look.corpora}
    return {
        "name": source.path.resolve().name,
        "labelled": source.labelled,
        "group": look.group,
        "clips": len(clips),
        "speakers": clips["speaker"][known].nunique(),
        "hours": clips["duration"].sum() / 3600,
        "classes": {name: look.colours[name] for name in look.classes},
        "corpora": list(look.corpora),
        "findings": findings(heard, look, told),
        "notes": look.notes,
        "pictures": {name: embed_png(file.read_bytes()) for name, file in drawn.items()},
        "emotions": emotion_rows(look),
        "people": speaker_rows(look),
        "levels": level_rows(look),
        "rates": rate_rows(look),
        "voices": voice_rows(look),
        "versions": [name for name in VERSIONS if told and name in told[0].uar],
        "told": told,
        "meaning": meaning(told),
        "compared": min(COMPARED, len(clips)),
        "mapped": min(MAPPED, len(clips)),
        "neighbours": NEIGHBOURS,
        "descriptors": DESCRIPTORS,
        "functionals": FUNCTIONALS,
        "margin": MARGIN,
        "full_scale": FULL_SCALE,
        "cut": heard.cut,
        "analysed": ANALYSED,
        "longest": map.LONGEST_SHOWN,
        "shown": len(examples),
        "players": [_player(look, row, example) for row, example in examples.items()] if embed_audio else [],
        "heard": _heard(look, source, list(examples)),
        "skipped": _skipped(heard),
        "terms": corpora if source.labelled else {},
    }


def _player(look: figures.View, row: int, example: map.Example) -> dict[str, str]:
    clip = look.clips.loc[row].to_dict()
    said = [clip[name] for name in ("speaker", "gender", "intensity", "statement")]
    wav = audio.to_wav(example.samples)
    return {
        "name": example.name,
        "colour": example.colour,
        "id": clip["id"],
        "about": ", ".join(str(item) for item in said if isinstance(item, str)),
        "uri": "data:audio/wav;base64," + base64.b64encode(wav).decode(),
    }


def _heard(look: figures.View, source: Source, rows: list[int]) -> list[str]:
    """Say whose voices can be played: each corpus with what must be borne in mind, or its title and terms."""
    lines = []
    for name in dict.fromkeys(look.clips.loc[rows, "corpus"]):
        facts = source.corpora[name]
        terms = f"{facts['title']} ({facts['license']}: {facts['terms']})" if source.labelled else ""
        lines += [f"{name}: {said}" for said in (facts["note"] or terms,) if said]
    return lines


def _skipped(heard: Survey) -> dict[str, Any] | None:
    """Count what was left out by corpus and reason, and list the files; None where it is not known."""
    if heard.skipped is None:
        return None
    counts = Counter((skip.corpus, skip.reason) for skip in heard.skipped)
    rows = [
        {"corpus": corpus, "reason": REASONS.get(reason, reason), "files": count}
        for (corpus, reason), count in counts.most_common()
    ]
    return {"rows": rows, "files": heard.skipped[:_LISTED], "count": len(heard.skipped)}
