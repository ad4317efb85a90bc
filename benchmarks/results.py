"""The tables of docs/results.md, generated from the run folders in benchmarks/results/, which contain no models.

    python benchmarks/results.py keep sweeps/ravdess --as ravdess     # what a sweep found, less models and sound
    python benchmarks/results.py table                                # writes docs/results.md between its two marks

Of each run, config.yaml, environment.json, metrics.json and the test part of predictions.parquet are kept, in
single precision and without folders in paths; of its baselines the last two files, once for each split.
`ser-ft compare benchmarks/results/ravdess` reports the runs.
"""

import argparse
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import mean

from ser_ft import RunFolder
from ser_ft.evaluation.pooling import find_runs, leaderboards, pool_runs
from ser_ft.evaluation.systems import System

HOME = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "results.md"
BEGIN, END = "<!-- results: python benchmarks/results.py table -->", "<!-- end of results -->"
HEAD = (
    "| | M parameters | folds x seeds | UAR | 95 % interval over speakers | over folds ± | accuracy | s to train |\n"
    "|---|---|---|---|---|---|---|---|"
)


def keep(sweeps: list[Path], name: str) -> None:
    """Copy the runs of sweeps into the repository."""
    home = HOME / name
    shutil.rmtree(home, ignore_errors=True)
    splits_with_baselines: set[str] = set()
    for sweep in sweeps:
        for run in find_runs([sweep]):
            copy = home / run.path.relative_to(sweep)
            keep_run(run, RunFolder(copy))
            if (split := str(run.metrics["split"])) not in splits_with_baselines:
                splits_with_baselines.add(split)
                for baseline in run.baselines:
                    keep_run(baseline, RunFolder(copy / "baselines" / baseline.path.name))


def keep_run(run: RunFolder, copy: RunFolder) -> None:
    """Copy one run or baseline."""
    copy.path.mkdir(parents=True)
    for file in (run.config_file, run.environment_file):
        if file.is_file():
            shutil.copyfile(file, copy.path / file.name)
    metrics = run.metrics
    copy.write_json(copy.metrics_file, metrics | {"parts": {"test": metrics["parts"]["test"]}})
    predictions = run.predictions.query("part == 'test'").reset_index(drop=True)
    predictions["path"] = [Path(path).name for path in predictions["path"]]
    single_precision = dict.fromkeys(metrics["classes"], "float32")
    predictions.astype(single_precision).to_parquet(copy.predictions_file, index=False, compression="zstd")


def rows(ranked_systems: list[System]) -> Iterator[str]:
    for system in ranked_systems:
        scores, cost = system.scores, system.cost
        parameters = f"{cost['parameters'] / 1e6:.2f}" if cost["parameters"] else ""
        interval = f"{scores['low']:.3f} to {scores['high']:.3f}" if scores["low"] is not None else "none"
        folds = f"{scores['std_folds']:.3f}" if scores["std_folds"] is not None else ""
        seconds = f"{cost['seconds']:.0f}" if cost["seconds"] else ""
        seeds = len(system.probabilities)
        runs = f"{len(system.runs) // seeds} x {seeds}"
        cells = (
            system.name,
            parameters,
            runs,
            f"**{scores['uar']:.3f}**",
            interval,
            folds,
            f"{scores['accuracy']:.3f}",
        )
        yield f"| {' | '.join((*cells, seconds))} |"


def commands(home: Path, runs: list[RunFolder]) -> Iterator[str]:
    """Yield the sweeps that make the runs, from the command that each run recorded."""
    options_of_a_run = ("--split.fold=", "--split.corpus=", "--seed=", "--out=", "--overwrite", "--resume")
    seeds_of: dict[str, set[int]] = {}
    for run in runs:
        words = run.environment["command"][3:]
        arguments = " ".join(word for word in words if not word.startswith(options_of_a_run))
        seeds_of.setdefault(arguments, set()).add(run.metrics["seed"])
    recipes_of: dict[tuple[str, str], list[str]] = {}
    for arguments, seeds in seeds_of.items():
        recipe, _, settings = arguments.partition(" ")
        recipes_of.setdefault((",".join(map(str, sorted(seeds))), settings), []).append(recipe)
    for (seeds, settings), recipes in recipes_of.items():
        words = [*sorted(recipes), f"--seeds {seeds}" if seeds != "0" else "", settings, f"--out sweeps/{home.name}"]
        yield f"ser-ft sweep {' '.join(filter(None, words))}"


def titles(corpora: Iterable[str], systems: Iterable[System]) -> dict[str, str]:
    """Return the names of corpora, with the notes that must accompany their results."""
    notes = {name: note for system in systems for name, note in system.runs[0].metrics["notes"].items()}
    return {name: f"{name} ({notes[name]})" if name in notes else name for name in corpora}


def matrix(systems: list[System]) -> Iterator[str]:
    """Yield a table of training corpora and test corpora."""
    corpora = sorted({corpus for system in systems for corpus in set(system.clips["corpus"])})
    title = titles(corpora, systems)
    classes = sorted({len(system.classes) for system in systems})
    yield (
        f"UAR on unseen speakers of {systems[0].model}, trained on one corpus and tested on all "
        f"({len(systems[0].probabilities)} seeds, {' or '.join(map(str, classes))} classes), with a 95 % confidence "
        "interval if there is one.\n"
    )
    yield f"| trained on | {' | '.join(f'tested on {title[corpus]}' for corpus in corpora)} |"
    yield f"|---|{'---|' * len(corpora)}"
    for system in sorted(systems, key=lambda system: system.split):
        scores = system.scores_by("corpus")
        cells = []
        for corpus in corpora:
            score = scores.get(corpus)
            interval = f" ({score['low']:.3f} to {score['high']:.3f})" if score and score["low"] is not None else ""
            cells.append(f"{score['uar']:.3f}{interval}" if score else "no held-out speaker")
        yield f"| {title[system.split.removeprefix('cross-corpus-')]} | {' | '.join(cells)} |"


def section(home: Path) -> Iterator[str]:
    runs = find_runs([home])
    systems = pool_runs(runs)
    cross_corpus = [system for system in systems if system.split.startswith("cross-corpus-")]
    if cross_corpus:
        yield from matrix([system for system in cross_corpus if system.is_model])
        yield ""
    for board in leaderboards([system for system in systems if system not in cross_corpus]):
        best = board.best
        mark = " **Leaking split**: the test speakers were in training." if best.leaking else ""
        clips = f"{len(best.labels):,} clips of {board.speakers} {'seen' if best.leaking else 'unseen'} speakers"
        corpora = titles(board.corpora, board.systems).values()
        yield f"{', '.join(corpora)}: {clips}, chance {best.scores['chance']:.3f}.{mark}\n"
        yield HEAD
        yield from rows(list(board.systems))
        yield ""
    yield "```bash"
    yield from commands(home, runs)
    yield "```\n"


def table() -> None:
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    sections = [line for home in sorted(HOME.iterdir()) if home.is_dir() for line in section(home)]
    text = "\n".join(sections)
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    keep_parser = commands.add_parser("keep", help="copy the runs of sweeps into the repository")
    keep_parser.add_argument("sweeps", type=Path, nargs="+")
    keep_parser.add_argument("--as", dest="name", required=True, help="their folder in benchmarks/results")
    commands.add_parser("table", help="write the tables of docs/results.md")
    options = parser.parse_args()
    if options.command == "keep":
        keep(options.sweeps, options.name)
    table()
    models = [system for system in pool_runs(find_runs([HOME])) if system.is_model]
    print(f"models: {len(models)}")
    print(f"mean_uar: {mean(system.scores['uar'] for system in models):.3f}")


if __name__ == "__main__":
    main()
