"""The contents of the page of a comparison, gathered from the pooled systems."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...evaluation.systems import CROSS_CORPUS_PREFIX, System
from ...labels import label_color
from ...utils.progress import progress_bar
from ..shared.plotting import figure_png
from ..shared.samples import MAX_SECONDS, Bar, Sample, describe_voice, embed_clips, voice_notes
from ..shared.tables import LEAKING, UNVERIFIED, run_notes, split_name
from ..shared.templates import embed_png
from . import figures
from .pairs import ALPHA, SystemComparison, conclusion, p_text, signed_interval_text, signed_text
from .published import PublishedResult, human_performance, published_results

if TYPE_CHECKING:
    from datasets import Dataset
    from matplotlib.figure import Figure

_ALL_OTHERS = "all others"
_COSTS = ("parameters", "seconds", "real_time_factor")

Figures = dict[str, "Figure"]


def page_contents(
    comparisons: Sequence[SystemComparison], data: Dataset | None, num_examples: int, show_progress: bool
) -> dict[str, Any]:
    """Gather what the template shows.

    At most `num_examples` clips that no model recognized are shown per test set. Once that many clips have audio (from
    `data`, the prepared table), those of further test sets have none, to keep the page small.
    """
    plots: Figures = {}
    blocks: list[dict[str, Any]] = []
    samples: list[Sample] = []
    for number, comparison in enumerate(item for item in comparisons if not item.tested.is_cross_corpus):
        enough = sum(sample.audio_uri is not None for sample in samples) >= num_examples
        blocks.append(_block(comparison, f"set{number}", plots, None if enough else data, num_examples))
        samples += [card["sample"] for card in blocks[-1]["missed"].get("cards", ())]
    systems = [system for comparison in comparisons for system in comparison.tested.systems]
    metrics = [run.metrics for system in systems for run in system.runs]
    terms = {name: item for content in metrics for name, item in (content.get("terms") or {}).items()}
    notes = {name: note for content in metrics for name, note in (content.get("notes") or {}).items() if note}
    corpora = {name for comparison in comparisons for name in comparison.tested.corpora}
    matrix = _matrix(comparisons, plots)
    pictures = progress_bar(plots.items(), desc="figures", show_progress=show_progress)
    return {
        "blocks": blocks,
        "matrix": matrix,
        "num_models": len({system.name for system in systems if system.is_model}),
        "num_runs": len({run.folder.path.resolve() for system in systems if system.is_model for run in system.runs}),
        "corpora": sorted(corpora),
        "notes": [note for note in _notes(systems) if note not in (LEAKING, UNVERIFIED)],
        "published": _published(corpora),
        "machines": sorted({machine for system in systems for machine in system.cost["machines"]}),
        "systems": _system_details(comparisons),
        "terms": terms,
        "voice_notes": voice_notes(samples, {"terms": terms, "notes": notes}),
        "max_seconds": MAX_SECONDS,
        "pictures": {name: embed_png(figure_png(figure)) for name, figure in pictures},
        "kind_names": figures.KIND_NAMES,
        "kind_colors": figures.KIND_COLORS,
        "alpha": ALPHA,
        "runs_text": _runs_text,
        "conclusion": conclusion,
        "p_text": p_text,
        "signed": signed_text,
        "signed_interval": signed_interval_text,
    }


def _block(
    comparison: SystemComparison, prefix: str, plots: Figures, data: Dataset | None, num_examples: int
) -> dict[str, Any]:
    """Gather what is shown of a test set, and add its figures to `plots`, with names that start with the prefix."""
    tested = comparison.tested
    notes = _notes(tested.systems)
    people = None if comparison.leaking else human_performance(tested.corpora)
    plots[f"{prefix}-models"] = figures.uar_figure(comparison, people, notes)
    block: dict[str, Any] = {
        "id": prefix,
        "comparison": comparison,
        "tested": tested,
        "seen_unknown": any(run.metrics.get("seen", ()) is None for system in tested.models for run in system.runs),
        # The package has recipes for these clips.
        "has_recipes": (*tested.corpora, tested.best.split, len(tested.best.classes)) == ("ravdess", "kfold", 8),
        "chance": tested.best.scores["chance"],
        "people": people,
        "missed": {},
    }
    if comparison.leaking:
        return block
    if comparison.transfer:
        plots[f"{prefix}-differences"] = figures.difference_figure(comparison, notes)
    measures = [key for key in _COSTS if any(system.cost[key] for system in tested.models)]
    if measures:
        plots[f"{prefix}-cost"] = figures.cost_figure(comparison, measures, notes)
    confusion_systems = tested.models[:12]
    plots[f"{prefix}-confusions"] = figures.confusion_figure(comparison, confusion_systems, notes)
    return block | {
        "has_cost": bool(measures),
        "machines": sorted({machine for system in tested.models for machine in system.cost["machines"]}),
        "confusion_systems": confusion_systems,
        "classes": _classes(comparison, f"{prefix}-classes", plots, notes),
        "groups": _groups(comparison, prefix, plots, notes),
        "missed": _missed_clips(comparison, data, num_examples),
    }


def _runs_text(system: System) -> str:
    """Return a system's number of runs, as folds x seeds if it has several seeds."""
    num_seeds, num_runs = len(system.probabilities), len(system.runs)
    return f"{num_runs // num_seeds} x {num_seeds}" if num_seeds > 1 and num_runs % num_seeds == 0 else str(num_runs)


def _classes(comparison: SystemComparison, name: str, plots: Figures, notes: Sequence[str]) -> list[dict[str, Any]]:
    """Draw the recall of each class, and return it."""
    best, models = comparison.tested.best, comparison.tested.models
    counts = Counter(best.clips["label"])
    colors = {label: label_color(label, index) for index, label in enumerate(best.classes) if counts[label]}
    panels = {label: {system.name: {"value": system.scores["recall"][label]} for system in models} for label in colors}
    subtitle = f"recall in percent\n{comparison.title}"
    plots[name] = figures.bar_panels("Recall of each emotion", subtitle, panels, colors, notes)
    recalls = {label: [system.scores["recall"][label] for system in models] for label in colors}
    return [
        {"name": label, "color": color, "clips": counts[label], "recalls": recalls[label]}
        for label, color in colors.items()
    ]


def _groups(comparison: SystemComparison, prefix: str, plots: Figures, notes: Sequence[str]) -> list[dict[str, Any]]:
    """Draw the UAR of each corpus and of each gender, if there are several, and return it."""
    result = []
    for column in ("corpus", "gender"):
        scores = {system.name: system.scores_by(column) for system in comparison.tested.models}
        groups = next(iter(scores.values()))
        if len(groups) < 2:
            continue
        panels = {
            group: {name: {"value": by_group[group]["uar"], **by_group[group]} for name, by_group in scores.items()}
            for group in groups
        }
        colors = dict.fromkeys(groups, figures.KIND_COLORS["transfer"])
        subtitle = f"UAR in percent, over the emotions that occur in the group; line: 95 % interval\n{comparison.title}"
        plots[f"{prefix}-{column}"] = figures.bar_panels(f"UAR of each {column}", subtitle, panels, colors, notes)
        result.append({"column": column, "groups": groups, "models": scores})
    return result


def _missed_clips(comparison: SystemComparison, data: Dataset | None, num_examples: int) -> dict[str, Any]:
    """Return the clips that every run of every model got wrong, and what they were predicted as."""
    models = comparison.tested.models
    if len(models) < 2:
        return {}
    first = models[0]
    wrong = [(system.predictions != first.labels).all(axis=0) for system in models]
    missed = np.flatnonzero(np.all(wrong, axis=0))
    probabilities = np.mean([system.probabilities.mean(axis=0) for system in models], axis=0)
    votes = np.concatenate([system.predictions for system in models])
    counts = Counter(first.clips["label"].iloc[missed])
    # The first clip of each emotion comes before the second of any; within an emotion, the most confident errors first.
    turns: Counter[int] = Counter()
    ranks = {}
    for row in sorted(missed.tolist(), key=lambda row: float(probabilities[row, first.labels[row]])):
        turns[int(first.labels[row])] += 1
        ranks[row] = turns[int(first.labels[row])]
    selected = sorted(ranks, key=ranks.__getitem__)[:num_examples]
    embedded = embed_clips(data, list(first.clips["id"].iloc[selected])) if data is not None else {}
    return {
        "count": len(missed),
        "clips": len(first.labels),
        "by_class": [
            (name, counts[name], int((first.labels == index).sum())) for index, name in enumerate(first.classes)
        ],
        "cards": [_card(first, row, probabilities[row], votes[:, row], embedded) for row in selected],
    }


def _card(
    system: System,
    row: int,
    probabilities: np.ndarray,
    votes: np.ndarray,
    embedded: Mapping[str, tuple[str, float | None]],
) -> dict[str, Any]:
    clip, names = system.clips.iloc[row].to_dict(), system.classes
    predictions = Counter(names[index] for index in votes.tolist()).most_common()
    bars = [Bar(name, float(probabilities[index]), label_color(name, index)) for index, name in enumerate(names)]
    facts = (clip["id"], clip["corpus"], describe_voice(clip), clip["label"], predictions[0][0])
    return {"sample": Sample(*facts, tuple(bars), *embedded.get(clip["id"], (None, None))), "predictions": predictions}


def _matrix(comparisons: Sequence[SystemComparison], plots: Figures) -> dict[str, Any]:
    """Return the cross-corpus matrix of each model; empty if there are no cross-corpus runs."""
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    used: list[System] = []
    models = [system for comparison in comparisons for system in comparison.tested.models]
    for system in models:
        if system.split.startswith(CROSS_CORPUS_PREFIX):
            trained_on = system.split.removeprefix(CROSS_CORPUS_PREFIX)
            rows.setdefault(system.name, {}).setdefault(trained_on, {}).update(system.scores_by("corpus"))
            used.append(system)
    if not rows:
        return {}
    for system in models:
        if system.split == "corpus":
            # Corpora that leave other classes to train on when they are left out are separate systems.
            rows.setdefault(system.name, {}).setdefault(_ALL_OTHERS, {}).update(system.scores_by("corpus"))
            used.append(system)
    tested: dict[str, dict[str, Any]] = {}
    for name, content in rows.items():
        rows[name] = dict(sorted(content.items(), key=lambda item: (item[0] == _ALL_OTHERS, item[0])))
        for cells in content.values():
            tested = cells | tested
    plots["matrix"] = figures.cross_corpus_figure(rows, sorted(tested), _notes(used))
    has_all_others = any(_ALL_OTHERS in content for content in rows.values())
    return {"rows": rows, "tested": dict(sorted(tested.items())), "has_all_others": has_all_others}


def _published(corpora: set[str]) -> list[dict[str, Any]]:
    """Return the published results in two lists: those on the compared corpora, and the others."""
    lists: dict[str, list[PublishedResult]] = {"on the corpora compared here": [], "on other corpora": []}
    for result in published_results():
        is_same = set(result.possible_corpora) <= corpora
        lists["on the corpora compared here" if is_same else "on other corpora"].append(result)
    return [{"title": title, "results": results} for title, results in lists.items() if results]


def _system_details(comparisons: Sequence[SystemComparison]) -> list[dict[str, Any]]:
    """Return the systems, with the command and the configuration of their first runs."""
    details = []
    for comparison in comparisons:
        for system in comparison.tested.systems:
            first = system.runs[0]
            command, config_file = first.environment.get("command"), first.folder.config_file
            item = {
                "system": system,
                "comparison": comparison,
                "splits": [split_name(run.metrics["split"]) for run in system.runs],
                "command": shlex.join(command) if command else None,
                "config": config_file.read_text(encoding="utf-8") if system.is_model and config_file.is_file() else "",
                "notes": run_notes(first.metrics),
            }
            details.append(item)
    return details


def _notes(systems: Sequence[System]) -> list[str]:
    return list(dict.fromkeys(note for system in systems for note in run_notes(system.runs[0].metrics)))
