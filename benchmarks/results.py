"""The tables and the figure of the results, generated from the run folders without models in benchmarks/results/.

    python benchmarks/results.py keep sweeps/ravdess --as ravdess     # what a sweep found, less models and sound
    python benchmarks/results.py keep sweeps/transfer --as transfer-ravdess --rename whisper-base=openai/whisper-base
    python benchmarks/results.py write                                # README.md, docs/results.md, docs/networks.md

A page says in comments what is written where: `<!-- results: table ravdess transfer-ravdess -->` is followed by a table
of the runs in these two folders, up to the next `<!-- end of results -->`.

Of each run, config.yaml, environment.json, metrics.json and the test part of predictions.parquet are kept, in
single precision and without folders in paths; of its baselines the last two files, once for each split.
`ser-ft compare benchmarks/results/ravdess benchmarks/results/transfer-ravdess` reports the runs.
"""

import argparse
import itertools
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

import yaml

from ser_ft import RunFolder
from ser_ft.evaluation.pooling import find_runs
from ser_ft.evaluation.significance import PairedComparison
from ser_ft.evaluation.systems import CROSS_CORPUS_PREFIX, System
from ser_ft.models import MODELS, SHIPPED, SHIPPED_MODELS
from ser_ft.report.comparison.figures import COST_NAMES, cost_figure
from ser_ft.report.comparison.pairs import (
    SystemComparison,
    holm,
    p_text,
    paired_difference,
    signed_interval_text,
    signed_text,
)
from ser_ft.report.comparison.published import human_performance, published_results
from ser_ft.report.comparison.report import compare
from ser_ft.report.shared.plotting import save_figure
from ser_ft.report.shared.tables import run_notes
from ser_ft.utils.errors import InputError
from ser_ft.utils.text import interval_text, score_text, size_text, time_text

ROOT = Path(__file__).parents[1]
HOME = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "README.md", ROOT / "docs" / "results.md", ROOT / "docs" / "networks.md")
FIGURE = ROOT / "docs" / "accuracy_and_cost.svg"
BLOCK = re.compile(r"<!-- results: (.+?) -->\n.*?<!-- end of results -->", re.DOTALL)
RANDOM = ", random weights"


def keep(sweeps: Sequence[Path], name: str, public_names: dict[str, str]) -> None:
    """Copy the runs of sweeps into the repository."""
    home = HOME / name
    shutil.rmtree(home, ignore_errors=True)
    splits_with_baselines: set[str] = set()
    for sweep in sweeps:
        for run in find_runs([sweep]):
            copy = home / run.path.relative_to(sweep)
            keep_run(run, RunFolder(copy), public_names)
            if (split := str(run.metrics["split"])) not in splits_with_baselines:
                splits_with_baselines.add(split)
                for baseline in run.baselines:
                    keep_run(baseline, RunFolder(copy / "baselines" / baseline.path.name), public_names)


def keep_run(run: RunFolder, copy: RunFolder, public_names: dict[str, str]) -> None:
    """Copy one run or baseline, with public names of models in place of their folders on this machine."""
    copy.path.mkdir(parents=True)
    for file in (run.config_file, run.environment_file):
        if file.is_file():
            text = file.read_text(encoding="utf-8")
            for folder, public_name in public_names.items():
                text = re.sub(rf"(?<![\w./-]){re.escape(folder)}(?![\w./-])", public_name, text)
            local = re.search(r"(?<=[\s=\"'])/\w[\w.-]*/[\w./-]+", text)
            if name := local[0] if local else local_model(text if file == run.config_file else ""):
                raise InputError(f"{file}: names {name}, which only this machine has: --rename {name}=PUBLIC-NAME")
            copy.write_text(copy.path / file.name, text)
    metrics = run.metrics
    copy.write_json(copy.metrics_file, metrics | {"parts": {"test": metrics["parts"]["test"]}})
    predictions = run.predictions.query("part == 'test'").reset_index(drop=True)
    predictions["path"] = [Path(path).name for path in predictions["path"]]
    single_precision = dict.fromkeys(metrics["classes"], "float32")
    predictions.astype(single_precision).to_parquet(copy.predictions_file, index=False, compression="zstd")


def local_model(config: str) -> str | None:
    """Return the model's name in a config.yaml if it is neither a network of ser_ft nor a name on the Hub."""
    name = str((yaml.safe_load(config) or {}).get("model", {}).get("name", SHIPPED))
    return None if name in (*MODELS, *SHIPPED_MODELS) or "/" in name else name


@cache
def comparison_of(folders: tuple[Path, ...]) -> SystemComparison:
    """Compare the systems of all runs in the folders.

    Raises:
        InputError: they were not tested on the same clips, or not in the same folds.
    """
    names = " and ".join(folder.name for folder in folders)
    comparison, *others = compare(folders, show_progress=False)
    if others:
        sets = "; ".join(f"{', '.join(system.name for system in c.tested.systems)}" for c in (comparison, *others))
        raise InputError(f"{names}: the systems were not tested on the same clips, or a run is missing: {sets}")
    folds = {system.name: folds_of(system) for system in comparison.tested.systems}
    expected = folds[(comparison.baseline or comparison.tested.best).name]
    if different := [name for name, value in folds.items() if value != expected]:
        raise InputError(f"{names}: {', '.join(different)}: tested in other folds than the baseline")
    return comparison


def folds_of(system: System) -> set[frozenset[str]]:
    return {frozenset(run.test_predictions["id"]) for run in system.runs}


def pretrained_first(comparison: SystemComparison) -> list[System]:
    """Return the systems that start from pretrained weights, then the others, each by UAR."""
    return sorted(comparison.tested.systems, key=lambda system: system.kind != "transfer")


def weights_of(system: System) -> str:
    weights = (system.starts_from or "").removesuffix(" weights")
    return f"**{weights}**" if system.kind == "transfer" else weights


def score_with_interval(system: System) -> str:
    scores = system.scores
    interval = f" ({interval_text(scores['low'], scores['high'])})" if scores["low"] is not None else ""
    return f"**{score_text(scores['uar'])}**{interval}"


def difference_cells(pair: PairedComparison, p_value: float) -> tuple[str, str]:
    interval = f" ({signed_interval_text(pair)})" if pair.low is not None else ""
    return f"{signed_text(pair.difference)}{interval}", p_text(p_value)


def differences(comparison: SystemComparison) -> dict[str, tuple[str, str]]:
    """Return the cells of each system's difference to the baseline, the p values corrected for their number (Holm)."""
    pairs = comparison.versus_baseline
    if not pairs:
        return {}
    corrected = holm([pair.p_value for pair in pairs.values()])
    cells = {name: difference_cells(pair, p) for (name, pair), p in zip(pairs.items(), corrected, strict=True)}
    return {system.name: cells.get(system.name, ("", "")) for system in comparison.tested.systems}


def titles(corpora: Iterable[str], systems: Iterable[System]) -> dict[str, str]:
    """Return the names of corpora, with the notes that must accompany their results."""
    notes = {name: note for system in systems for name, note in system.runs[0].metrics["notes"].items()}
    return {name: f"{name} ({notes[name]})" if name in notes else name for name in corpora}


def rows(head: Sequence[str], cells: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in cells:
        yield f"| {' | '.join(row)} |"


def table(folders: tuple[Path, ...]) -> Iterator[str]:
    """Yield the scores of all systems."""
    comparison = comparison_of(folders)
    board, systems, baseline = comparison.tested, pretrained_first(comparison), comparison.baseline
    mark = " **Leaking split**: the test speakers were in training." if comparison.leaking else ""
    speakers = f"{board.speakers} {'seen' if comparison.leaking else 'unseen'} speakers"
    clips = f"{len(board.best.labels):,} clips of {speakers}, {len(board.best.classes)} classes"
    corpora = ", ".join(titles(board.corpora, systems).values())
    yield f"{corpora}: {clips}, chance {score_text(board.best.scores['chance'])}.{mark}\n"
    head, cells = ["model", "weights", "UAR (95 % interval)"], differences(comparison)
    if comparison.versus_baseline and baseline:
        head += [f"minus {baseline.name} (95 % interval)", "p"]
    scores = ([s.name, weights_of(s), score_with_interval(s), *cells.get(s.name, ())] for s in systems)
    accuracies = (score_text(system.scores["accuracy"]) for system in systems)
    yield from rows([*head, "accuracy"], ([*row, accuracy] for row, accuracy in zip(scores, accuracies, strict=True)))


def cost(folders: tuple[Path, ...]) -> Iterator[str]:
    """Yield the runs, the size and the processor time of training of each model, where the runs state it."""
    comparison = comparison_of(folders)
    systems = [system for system in pretrained_first(comparison) if system.is_model]
    machines = sorted({name for system in systems for name in system.cost["machines"]})
    has_times = any(system.cost["cpu_seconds"] for system in systems)
    head = ["model", "folds x seeds", "parameters", "trained", *(["processor time of training"] if has_times else [])]
    cells = [
        [
            system.name,
            f"{len(system.runs) // len(system.probabilities)} x {len(system.probabilities)}",
            *(size_text(system.cost[key]) if system.cost[key] else "" for key in ("parameters", "trained_parameters")),
            *([time_text(system.cost["cpu_seconds"]) if system.cost["cpu_seconds"] else ""] if has_times else []),
        ]
        for system in systems
    ]
    if has_times and len(machines) > 1:
        head.append("machine")
        cells = [[*row, "; ".join(system.cost["machines"])] for row, system in zip(cells, systems, strict=True)]
    yield from rows(head, cells)
    if has_times:
        machine = f"; {machines[0]}" if len(machines) == 1 else ""
        yield f"\nProcessor time: that of the training loop of one run, over all threads{machine}."
        yield "Features, and the states of frozen layers, are computed once for all runs and are not included."


def summary(folders: tuple[Path, ...]) -> Iterator[str]:
    """Yield a short table: the systems with pretrained weights, and the best of each other kind."""
    comparison = comparison_of(folders)
    shown: list[System] = []
    for system in pretrained_first(comparison):
        if system.kind == "transfer" or all(system.kind != other.kind for other in shown):
            shown.append(system)
    baseline = comparison.baseline.name if comparison.baseline else ""
    head = ("model", "weights", "parameters", "UAR (95 % interval)", f"minus {baseline} (95 % interval)")
    cells = differences(comparison)
    yield from rows(
        head,
        (
            (
                system.name,
                weights_of(system),
                size_text(system.cost["parameters"]) if system.cost["parameters"] else "",
                score_with_interval(system),
                cells.get(system.name, ("",))[0],
            )
            for system in shown
        ),
    )


def pairs(folders: tuple[Path, ...]) -> Iterator[str]:
    """Yield the paired differences between each pretrained system and the next, and between pretrained and random."""
    comparison = comparison_of(folders)
    by_name = {system.name: system for system in comparison.tested.systems}
    pretrained = [system for system in comparison.tested.systems if system.kind == "transfer"]
    compared = list(itertools.pairwise(pretrained))
    twins = {name.replace(RANDOM, ""): system for name, system in by_name.items() if RANDOM in name}
    compared += [(by_name[name], system) for name, system in twins.items() if name in by_name]
    if not compared:
        return
    results = [paired_difference(first, second) for first, second in compared]
    corrected = holm([result.p_value for result in results])
    yield from rows(
        ("model", "minus", "difference of UAR (95 % interval)", "p"),
        (
            (first.name, second.name, *difference_cells(result, p))
            for (first, second), result, p in zip(compared, results, corrected, strict=True)
        ),
    )


def figure(folders: tuple[Path, ...]) -> Iterator[str]:
    """Draw accuracy against size and processor time of training, and yield the reference to the figure."""
    comparison = comparison_of(folders)
    notes = list(dict.fromkeys(note for s in comparison.tested.systems for note in run_notes(s.runs[0].metrics)))
    has_times = all(system.cost["cpu_seconds"] for system in comparison.tested.models)
    measures = ["parameters", "cpu_seconds" if has_times else "trained_parameters"]
    save_figure(cost_figure(comparison, measures, notes), FIGURE)
    description = f"UAR of each model, with its interval, against {' and '.join(COST_NAMES[name] for name in measures)}"
    yield f"![{description}]({FIGURE.name})"


def matrix(folders: tuple[Path, ...]) -> Iterator[str]:
    """Yield a table of training corpora and test corpora, the models that start from pretrained weights first."""
    comparisons = compare(folders, show_progress=False)
    systems = [system for comparison in comparisons for system in comparison.tested.models]
    if len(comparisons) != len({system.split for system in systems}):
        names = " and ".join(folder.name for folder in folders)
        raise InputError(f"{names}: the models of a row were not tested on the same clips, or a run is missing")
    corpora = sorted({corpus for system in systems for corpus in set(system.clips["corpus"])})
    title = titles(corpora, systems)
    cells = []
    for system in sorted(systems, key=lambda system: (system.split, system.kind != "transfer", -system.scores["uar"])):
        scores = system.scores_by("corpus")
        trained_on = title[system.split.removeprefix(CROSS_CORPUS_PREFIX)]
        row = [trained_on, system.name, weights_of(system), str(len(system.probabilities))]
        for corpus in corpora:
            score = scores.get(corpus)
            interval = f" ({interval_text(score['low'], score['high'])})" if score and score["low"] is not None else ""
            row.append(f"{score_text(score['uar'])}{interval}" if score else "no held-out speaker")
        cells.append(row)
    tested = [f"tested on {title[corpus]}" for corpus in corpora]
    yield from rows(("trained on", "model", "weights", "seeds", *tested), cells)


def published(corpus: str) -> Iterator[str]:
    """Yield what others published on unseen speakers of a corpus, and how well people recognize it."""
    people = human_performance([corpus])
    results = [row for row in published_results() if row.corpora == (corpus,) and not (row.leaking or row.trained_on)]
    cells = [("people", "", score_text(people.score), people.measure, people.source)] if people else []
    cells += [(row.system, score_text(row.uar), score_text(row.accuracy), row.protocol, row.source) for row in results]
    yield from rows(("system", "UAR", "accuracy", "protocol", "source"), cells)


def commands(folders: tuple[Path, ...]) -> Iterator[str]:
    """Yield the sweeps that make the runs, from the command that each run recorded."""
    options_of_a_run = ("--split.fold=", "--split.corpus=", "--seed=", "--out=", "--overwrite", "--resume")
    yield "```bash"
    for home in folders:
        seeds_of: dict[str, set[int]] = {}
        for run in find_runs([home]):
            words = run.environment["command"][3:]
            arguments = " ".join(word for word in words if not word.startswith(options_of_a_run))
            seeds_of.setdefault(arguments, set()).add(run.metrics["seed"])
        recipes_of: dict[tuple[str, str], list[str]] = {}
        for arguments, seeds in seeds_of.items():
            recipe, _, settings = arguments.partition(" ")
            recipes_of.setdefault((",".join(map(str, sorted(seeds))), settings), []).append(recipe)
        for (numbers, settings), recipes in recipes_of.items():
            options = [f"--seeds {numbers}" if numbers != "0" else "", settings, f"--out sweeps/{home.name}"]
            yield f"ser-ft sweep {' '.join(filter(None, (*sorted(recipes), *options)))}"
    yield "```"


CONTENTS: dict[str, Callable[[tuple[Path, ...]], Iterator[str]]] = {
    write.__name__: write for write in (table, summary, pairs, figure, cost, matrix, commands)
}


def block(directive: str) -> str:
    """Return what is written between two marks; only the runs that are there are used, and the others named."""
    content, *names = directive.split()
    if content == "published":
        return _marked(directive, published(*names))
    folders = tuple(HOME / name for name in names if (HOME / name).is_dir())
    lines = list(CONTENTS[content](folders)) if folders else []
    missing = [name for name in names if HOME / name not in folders]
    if missing and (content in ("table", "matrix") or not folders):
        lines += ["", f"*Not measured yet: {', '.join(missing)}.*"]
    return _marked(directive, lines)


def _marked(directive: str, lines: Iterable[str]) -> str:
    text = "\n".join(lines).strip()
    return f"<!-- results: {directive} -->\n\n{text}\n\n<!-- end of results -->"


def write() -> None:
    """Write the blocks of all pages."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        page.write_text(BLOCK.sub(lambda match: block(match[1]), text), encoding="utf-8")
        print(f"{page.relative_to(ROOT)}: {len(BLOCK.findall(text))} blocks")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    keep_parser = commands.add_parser("keep", help="copy the runs of sweeps into the repository, and write the pages")
    keep_parser.add_argument("sweeps", type=Path, nargs="+")
    keep_parser.add_argument("--as", dest="name", required=True, help="their folder in benchmarks/results")
    keep_parser.add_argument("--rename", nargs="+", default=[], help="FOLDER=NAME: the public name of weights")
    commands.add_parser("write", help="write the tables and the figure of the pages")
    options = parser.parse_args()
    try:
        if options.command == "keep":
            keep(options.sweeps, options.name, dict(pair.split("=", 1) for pair in options.rename))
        write()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
