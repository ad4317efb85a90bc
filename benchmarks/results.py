"""The tables of docs/results.md, generated from the run folders in benchmarks/results/, which contain no models.

    python benchmarks/results.py keep sweeps/ravdess --as ravdess     # what a sweep found, less models and sound
    python benchmarks/results.py table                                # writes docs/results.md between its two marks

Of each run are kept: config.yaml, environment.json, metrics.json, and of predictions.parquet the test part, with single
precision and without folders in the paths; of its baselines the last two, once for each split.
`ser-ft compare benchmarks/results/ravdess` reports them.
"""

import argparse
import shutil
from collections.abc import Iterator
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
    """Put what sweeps found into the repository."""
    home = HOME / name
    shutil.rmtree(home, ignore_errors=True)
    judged: set[str] = set()
    for sweep in sweeps:
        for run in find_runs([sweep]):
            place = home / run.path.relative_to(sweep)
            keep_run(run, RunFolder(place))
            if (split := str(run.metrics["split"])) not in judged:
                judged.add(split)
                for baseline in run.baselines:
                    keep_run(baseline, RunFolder(place / "baselines" / baseline.path.name))


def keep_run(run: RunFolder, kept: RunFolder) -> None:
    """Keep one run, or baseline."""
    kept.path.mkdir(parents=True)
    for file in (run.config_file, run.environment_file):
        if file.is_file():
            shutil.copyfile(file, kept.path / file.name)
    facts = run.metrics
    kept.write_json(kept.metrics_file, facts | {"parts": {"test": facts["parts"]["test"]}})
    predictions = run.predictions.query("part == 'test'").reset_index(drop=True)
    predictions["path"] = [Path(path).name for path in predictions["path"]]
    shares = dict.fromkeys(facts["classes"], "float32")
    predictions.astype(shares).to_parquet(kept.predictions_file, index=False, compression="zstd")


def rows(found: list[System]) -> Iterator[str]:
    for system in found:
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
    """Yield what makes runs, from the command that each of them kept: recipes of one seed and setting together."""
    ours = ("--split.fold=", "--split.corpus=", "--seed=", "--out=", "--overwrite", "--resume")
    made: dict[str, set[int]] = {}
    for run in runs:
        words = run.environment["command"][2:]
        told = " ".join(word for word in words[1:] if not word.startswith(ours))
        made.setdefault(told, set()).add(run.metrics["seed"])
    together: dict[tuple[str, str], list[str]] = {}
    for told, seeds in made.items():
        recipe, _, settings = told.partition(" ")
        together.setdefault((",".join(map(str, sorted(seeds))), settings), []).append(recipe)
    for (seeds, settings), recipes in together.items():
        words = [*sorted(recipes), f"--seeds {seeds}" if seeds != "0" else "", settings, f"--out sweeps/{home.name}"]
        yield f"ser-ft sweep {' '.join(filter(None, words))}"


def matrix(found: list[System]) -> Iterator[str]:
    """Yield a train-corpus x test-corpus table; what must be said of a corpus stands wherever it does."""
    corpora = sorted({corpus for system in found for corpus in set(system.clips["corpus"])})
    notes = {name: note for system in found for name, note in system.runs[0].metrics["notes"].items()}
    called = {name: f"{name} ({notes[name]})" if name in notes else name for name in corpora}
    classes = sorted({len(system.classes) for system in found})
    yield (
        f"{found[0].model}, trained on one corpus and tested on all ({len(found[0].probabilities)} seeds, "
        f"{' or '.join(map(str, classes))} classes): UAR on unseen speakers, with a 95 % interval where there is one.\n"
    )
    yield f"| trained on | {' | '.join(f'tested on {called[corpus]}' for corpus in corpora)} |"
    yield f"|---|{'---|' * len(corpora)}"
    for system in sorted(found, key=lambda one: one.split):
        scores = system.scores_by("corpus")
        cells = []
        for corpus in corpora:
            score = scores.get(corpus)
            between = f" ({score['low']:.3f} to {score['high']:.3f})" if score and score["low"] is not None else ""
            cells.append(f"{score['uar']:.3f}{between}" if score else "no speaker is held back")
        yield f"| {called[system.split.removeprefix('cross-corpus-')]} | {' | '.join(cells)} |"


def section(home: Path) -> Iterator[str]:
    runs = find_runs([home])
    found = pool_runs(runs)
    crossed = [system for system in found if system.split.startswith("cross-corpus-")]
    if crossed:
        yield from matrix([system for system in crossed if system.is_model])
        yield ""
    for one in leaderboards([system for system in found if system not in crossed]):
        mark = " **Leaking split**: the test speakers were heard in training." if one.first.leaking else ""
        clips = (
            f"{len(one.first.labels):,} clips of {one.speakers} {'heard' if one.first.leaking else 'unseen'} speakers"
        )
        chance = f"chance {one.first.scores['chance']:.3f}"
        notes = {name: note for system in one.systems for name, note in system.runs[0].metrics["notes"].items()}
        corpora = [f"{name} ({notes[name]})" if name in notes else name for name in one.corpora]
        yield f"{', '.join(corpora)}: {clips}, {chance}.{mark}\n"
        yield HEAD
        yield from rows(list(one.systems))
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
    parts = parser.add_subparsers(required=True, dest="part")
    kept = parts.add_parser("keep", help="put what a sweep found into the repository")
    kept.add_argument("sweeps", type=Path, nargs="+")
    kept.add_argument("--as", dest="name", required=True, help="its folder below benchmarks/results")
    parts.add_parser("table", help="write the tables of docs/results.md")
    chosen = parser.parse_args()
    if chosen.part == "keep":
        keep(chosen.sweeps, chosen.name)
    table()
    models = [one for one in pool_runs(find_runs([HOME])) if one.is_model]
    print(f"models: {len(models)}")
    print(f"mean_uar: {mean(one.scores['uar'] for one in models):.3f}")


if __name__ == "__main__":
    main()
