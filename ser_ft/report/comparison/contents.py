"""What the page of a comparison shows, gathered from the pooled systems."""

from __future__ import annotations

import shlex
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...evaluation.run_folder import RunFolder
from ...evaluation.systems import CROSS_CORPUS_PREFIX, System
from ...labels import label_color
from ...utils.progress import progress_bar
from ...utils.text import MISSING, size_text, time_text
from ..shared import samples
from ..shared.plotting import save_figure
from ..shared.tables import LEAKING, run_notes, split_name
from ..shared.templates import embed_png
from . import figures as figures
from .pairs import TOLD, Compared, p_text, signed, signed_interval, verdict
from .published import people, published

if TYPE_CHECKING:
    from datasets import Dataset
    from matplotlib.figure import Figure

_MOST_CONFUSIONS = 12
_OTHERS = "all others"


def contents(compared: Sequence[Compared], data: Dataset | None, num_examples: int, shown: bool) -> dict[str, Any]:
    """Gather what the template shows.

    Args:
        compared: as `ser_ft.report.comparison.report.compare` gives it. data: the prepared table, for its sound.
        num_examples: how many clips that no model recognised are shown for each test set; when as many can be played, those
            of further test sets cannot: the page must stay small. shown: show a bar while the figures are drawn.
    """
    pictures: dict[str, Figure] = {}
    blocks: list[dict[str, Any]] = []
    cards: list[samples.Sample] = []
    for place, one in enumerate(one for one in compared if not one.tested.is_cross_corpus):
        enough = sum(card.audio_uri is not None for card in cards) >= num_examples
        blocks.append(_block(one, f"set{place}", pictures, None if enough else data, num_examples))
        cards += [card["sample"] for card in blocks[-1]["hard"].get("cards", ())]
    everyone = [system for one in compared for system in one.tested.systems]
    metrics = [member.metrics for system in everyone for member in system.runs]
    terms = {name: item for facts in metrics for name, item in (facts.get("terms") or {}).items()}
    notes = {name: note for facts in metrics for name, note in (facts.get("notes") or {}).items() if note}
    corpora = {name for one in compared for name in one.tested.corpora}
    machines = sorted({machine for system in everyone for machine in system.cost["machines"]})
    crossing = _matrix(compared, pictures)
    drawn = progress_bar(pictures.items(), desc="figures", shown=shown)
    return {
        "blocks": blocks,
        "matrix": crossing,
        "models": len({system.name for system in everyone if system.is_model}),
        "runs": len({member.folder.path.resolve() for one in everyone if one.is_model for member in one.runs}),
        "corpora": sorted(corpora),
        "notes": [note for note in _notes(everyone) if note != LEAKING],
        "published": _published(corpora),
        "machines": machines,
        "made": _made(compared),
        "terms": terms,
        "voices": samples.voice_notes(cards, {"terms": terms, "notes": notes}),
        "longest": samples.MAX_SECONDS,
        "pictures": {name: embed_png(_png(figure)) for name, figure in drawn},
        "kind_words": figures.KIND_WORDS,
        "signed": signed,
        "told": TOLD,
    }


def _block(
    one: Compared, name: str, pictures: dict[str, Figure], data: Dataset | None, num_examples: int
) -> dict[str, Any]:
    """Gather what is shown of a test set, and draw its figures under names that begin with its own."""
    notes = _notes(one.tested.systems)
    known = None if one.leaking else people(one.tested.corpora)
    pictures[f"{name}-models"] = figures.models(one, known, notes)
    block: dict[str, Any] = {
        "id": name,
        "title": one.title,
        "leaking": one.leaking,
        "unsure": any(member.metrics.get("seen", ()) is None for system in one.tested.models for member in system.runs),
        "nameless": one.tested.best.has_unknown_speakers,
        # What the recipes of the package are made for.
        "usual": one.tested.corpora == ("ravdess",)
        and one.tested.best.split == "kfold"
        and len(one.tested.best.classes) == 8,
        "baseline": one.baseline,
        "chance": one.tested.best.scores["chance"],
        "corpora": one.tested.corpora,
        "speakers": one.tested.speakers,
        "people": known,
        "rows": [_row(one, system) for system in one.tested.systems],
        "best": one.tested.models[0],
        "models": len(one.tested.models),
        "transfer": [],
        "hard": {},
    }
    if one.leaking:
        return block
    if one.transfer:
        block["transfer"] = _transfer(one)
        pictures[f"{name}-differences"] = figures.differences(one, notes)
    measures = [key for key in figures.COST_WORDS if any(system.cost[key] for system in one.tested.models)]
    if measures:
        pictures[f"{name}-cost"] = figures.cost(one, measures, notes)
    shown = one.tested.models[:_MOST_CONFUSIONS]
    pictures[f"{name}-confusions"] = figures.confusions(one, shown, notes)
    block |= {
        "cost": [_cost(system) for system in one.tested.models] if measures else [],
        "machines": sorted({machine for system in one.tested.models for machine in system.cost["machines"]}),
        "confusions": [_confusion(system) for system in shown],
        "classes": _classes(one, f"{name}-classes", pictures, notes),
        "groups": _groups(one, name, pictures, notes),
        "pairs": _pairs(one),
        "hard": _hard(one, data, num_examples),
    }
    return block


def _row(one: Compared, system: System) -> dict[str, Any]:
    found = one.beside.get(system.name)
    seeds = len(system.probabilities)
    runs = len(system.runs)
    return {
        "name": system.name,
        "kind": figures.KIND_WORDS[system.kind],
        "colour": figures.KIND_COLOURS[system.kind],
        "model": system.is_model,
        "runs": f"{runs // seeds} x {seeds}" if seeds > 1 and runs % seeds == 0 else str(runs),
        "scores": system.scores,
        "difference": signed(found.difference) if found else MISSING,
        "its_interval": signed_interval(found) if found else MISSING,
        "p": p_text(found.p_value) if found else MISSING,
        "base": system is one.baseline,
    }


def _transfer(one: Compared) -> list[dict[str, Any]]:
    assert one.baseline is not None
    rows = []
    for name, p in one.transfer.items():
        found = one.beside[name]
        rows.append(
            {
                "name": name,
                "uar": next(system.scores["uar"] for system in one.tested.systems if system.name == name),
                "difference": found.difference,
                "interval": signed_interval(found),
                "p": p_text(found.p_value),
                "corrected": p_text(p),
                "words": verdict(name, one.baseline.name, found, p),
            }
        )
    return rows


def _cost(system: System) -> dict[str, Any]:
    cost = system.cost
    factor = cost["real_time_factor"]
    return {
        "name": system.name,
        "uar": system.scores["uar"],
        "parameters": size_text(cost["parameters"]) if cost["parameters"] else MISSING,
        "trained": size_text(cost["trained_parameters"]) if cost["trained_parameters"] else MISSING,
        "seconds": time_text(cost["seconds"]) if cost["seconds"] else MISSING,
        "factor": f"{factor:.3g}" if factor else MISSING,
        "machines": "; ".join(cost["machines"]) or MISSING,
    }


def _confusion(system: System) -> dict[str, Any]:
    return {"name": system.name, "rows": list(zip(system.classes, system.confusion.tolist(), strict=True))}


def _classes(one: Compared, picture: str, pictures: dict[str, Figure], notes: Sequence[str]) -> list[dict[str, Any]]:
    """Draw the recall of each class, a panel each, and return it by class."""
    found = one.tested.models
    counts = Counter(one.tested.best.clips["label"])
    classes = [name for name in one.tested.best.classes if counts[name]]
    shades = {name: label_color(name, place) for place, name in enumerate(one.tested.best.classes)}
    groups = {name: {one.name: {"value": one.scores["recall"][name]} for one in found} for name in classes}
    subtitle = f"recall in percent: of an emotion's clips, the share recognised\n{one.title}"
    pictures[picture] = figures.panels("Recall of each emotion", subtitle, groups, shades, notes)
    return [
        {
            "name": name,
            "colour": shades[name],
            "clips": counts[name],
            "recalls": [system.scores["recall"][name] for system in found],
        }
        for name in classes
    ]


def _groups(one: Compared, name: str, pictures: dict[str, Figure], notes: Sequence[str]) -> list[dict[str, Any]]:
    """Draw the UAR of each corpus and of women and men, where there are several, and return it by group."""
    made = []
    for column in ("corpus", "gender"):
        found = {system.name: system.scores_by(column) for system in one.tested.models}
        groups = next(iter(found.values()))
        if len(groups) < 2:
            continue
        panels = {
            group: {who: {"value": by[group]["uar"], **by[group]} for who, by in found.items()} for group in groups
        }
        shades = dict.fromkeys(groups, figures.KIND_COLOURS["transfer"])
        subtitle = f"UAR in percent, over the emotions that occur in it; line: 95 % interval\n{one.title}"
        pictures[f"{name}-{column}"] = figures.panels(f"UAR of each {column}", subtitle, panels, shades, notes)
        made.append({"column": column, "groups": groups, "models": found})
    return made


def _pairs(one: Compared) -> list[dict[str, Any]]:
    """Return the rows of the table of differences, each model less those below it; none where there is nothing told."""
    if not one.pairs:
        return []
    names = [system.name for system in one.tested.models]
    rows = []
    for place, name in enumerate(names):
        cells: list[dict[str, Any] | None] = [None] * (place + 1)
        for other in names[place + 1 :]:
            found, p = one.pairs[name, other], one.corrected[name, other]
            text = {"difference": signed(found.difference), "interval": signed_interval(found)}
            cells.append({**text, "p": p_text(p), "told": p <= TOLD, "other": other})
        rows.append({"name": name, "cells": cells})
    return rows


def _hard(one: Compared, data: Dataset | None, num_examples: int) -> dict[str, Any]:
    """Find the clips that every run of every model got wrong, and what they were taken for."""
    found = one.tested.models
    if len(found) < 2:
        return {}
    first = found[0]
    missed = np.flatnonzero(np.all([(one.predictions != first.labels).all(axis=0) for one in found], axis=0))
    shares = np.mean([system.probabilities.mean(axis=0) for system in found], axis=0)
    votes = np.concatenate([system.predictions for system in found])
    counts = Counter(first.clips["label"].iloc[missed])
    order = sorted(missed.tolist(), key=lambda row: float(shares[row, first.labels[row]]))
    turns: Counter[int] = Counter()
    ranked = []
    for row in order:  # each emotion has its turn before any has its second
        turns[int(first.labels[row])] += 1
        ranked.append((turns[int(first.labels[row])], row))
    chosen = [row for _, row in sorted(ranked, key=lambda pair: pair[0])][:num_examples]
    heard = samples.embed_clips(data, list(first.clips["id"].iloc[chosen])) if data is not None else {}
    return {
        "count": len(missed),
        "clips": len(first.labels),
        "by_class": [(name, counts[name], int((first.labels == at).sum())) for at, name in enumerate(first.classes)],
        "cards": [_card(first, row, shares[row], votes[:, row], heard) for row in chosen],
    }


def _card(
    first: System, row: int, shares: np.ndarray, votes: np.ndarray, heard: Mapping[str, tuple[str, float | None]]
) -> dict[str, Any]:
    clip = {str(key): value for key, value in first.clips.iloc[row].items()}
    taken = Counter(first.classes[place] for place in votes.tolist()).most_common()
    sound, cut = heard.get(clip["id"], (None, None))
    bars = [samples.Bar(name, float(shares[at]), label_color(name, at)) for at, name in enumerate(first.classes)]
    sample = samples.Sample(
        clip["id"], clip["corpus"], samples.describe_voice(clip), clip["label"], taken[0][0], tuple(bars), sound, cut
    )
    return {"sample": sample, "taken": taken}


def _matrix(compared: Sequence[Compared], pictures: dict[str, Figure]) -> dict[str, Any]:
    """Put the cross-corpus runs into a matrix for each model; empty where there are none."""
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    used: list[System] = []
    for system in (system for one in compared for system in one.tested.models):
        if system.split.startswith(CROSS_CORPUS_PREFIX):
            row = rows.setdefault(system.name, {}).setdefault(system.split.removeprefix(CROSS_CORPUS_PREFIX), {})
            row.update(system.scores_by("corpus"))
            used.append(system)
    for system in (system for one in compared for system in one.tested.models):
        if rows and system.split == "corpus":
            # Corpora whose leaving out leaves other classes to learn are systems of their own.
            rows.setdefault(system.name, {}).setdefault(_OTHERS, {}).update(system.scores_by("corpus"))
            used.append(system)
    if not rows:
        return {}
    tested: dict[str, dict[str, Any]] = {}
    for cells in (cells for content in rows.values() for cells in content.values()):
        tested |= {name: cell for name, cell in cells.items() if name not in tested}
    rows = {name: dict(sorted(content.items(), key=_others_last)) for name, content in rows.items()}
    pictures["matrix"] = figures.matrix(rows, sorted(tested), _notes(used))
    left_out = any(_OTHERS in content for content in rows.values())
    return {"rows": rows, "tested": dict(sorted(tested.items())), "others": _OTHERS, "left_out": left_out}


def _others_last(item: tuple[str, Any]) -> tuple[bool, str]:
    return item[0] == _OTHERS, item[0]


def _published(corpora: set[str]) -> list[dict[str, Any]]:
    """Return the figures of others in two lots: those of the corpora at hand, and the rest."""
    rows = published()
    near = [row for row in rows if set(row.corpora) <= corpora]
    far = [row for row in rows if row not in near]
    lots = (("of the corpora compared here", near), ("of other corpora", far))
    return [{"words": words, "rows": found} for words, found in lots if found]


def _made(compared: Sequence[Compared]) -> list[dict[str, Any]]:
    """Say of each system which runs it stands for, and how they were made."""
    made = []
    for one in compared:
        for system in one.tested.systems:
            first = system.runs[0]
            command = first.environment.get("command")
            made.append(
                {
                    "name": system.name,
                    "title": one.title,
                    "leaking": one.leaking,
                    "kind": figures.KIND_WORDS[system.kind],
                    "runs": [
                        {
                            "folder": str(member.folder.path),
                            "split": split_name(member.metrics["split"]),
                            "seed": member.metrics["seed"],
                            "clips": len(member.test_predictions),
                            "uar": member.uar,
                        }
                        for member in system.runs
                    ],
                    "command": shlex.join(command) if command else None,
                    "config": _config(first.folder) if system.is_model else "",
                    "notes": run_notes(first.metrics),
                }
            )
    return made


def _config(run: RunFolder) -> str:
    return run.config_file.read_text(encoding="utf-8") if run.config_file.is_file() else ""


def _notes(found: Sequence[System]) -> list[str]:
    return list(dict.fromkeys(note for system in found for note in run_notes(system.runs[0].metrics)))


def _png(figure: Figure) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return save_figure(figure, Path(folder) / "figure.png").read_bytes()
