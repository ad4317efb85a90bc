"""What is left of each command's work when it is killed, or when the disk is full.

    python benchmarks/interruptions.py kill --moments 10
    python benchmarks/interruptions.py full                     (as root on Linux: small file systems are mounted)

Each command runs on a tiny input, first undisturbed. Then it is killed (SIGKILL to its process group), once per trial:
half of the trials at a random time, half at a random one of its file operations (files opened for writing, renamed or
removed), where half-written files would be left. After that it runs again, as a user would repeat it, with --resume or
--overwrite. For a full disk, its outputs (`out`), its temporary files (`tmp`) or its caches (`cache`) lie on a file
system that has room for a part of what the undisturbed run writes; then the file system gets larger, and the command
runs again.

A trial is passed if all of these hold:

- earlier results beside the output are unchanged, and an output that the command replaces is the old or the new one;
- no file under its final name is half written;
- for a full disk: exit code 1 (or success, or 2 before work starts), and one line on stderr that names the disk,
  without a traceback;
- the repetition succeeds, and its result is that of the undisturbed run, byte for byte (but for times and versions);
- nothing is left beside the results: no hidden file or folder, and no temporary file.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Process
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))
TRIAL_PARTS = ("out", "tmp", "cache")
VOLATILE = ("environment.json", "report.html", "comparison.html")
NEW, OLD, ABSENT, MIXED, BROKEN = "new", "old", "absent", "old and new files", "broken"


@dataclass(frozen=True)
class Case:
    """A command under test.

    Attributes:
        again: the arguments of the repetition.
        output: the output below `out`, a file or a folder.
        old: the arguments that make an earlier output in its place; None: there is none.
        resumes: whether an interrupted output is a part that is continued, instead of the old or the new one.
        reported: whether figures and the report are added to the output after it is in its place.
        separate: whether the output is a number of files, of which some may be old and some new.
        program: the function that runs the command.
    """

    arguments: list[str]
    again: list[str]
    output: str
    old: list[str] | None = None
    resumes: bool = False
    reported: bool = False
    separate: bool = False
    program: str = "ser-ft"


def run_program(program: str, arguments: list[str]) -> int:
    if program == "pretrain":
        from ser_ft.cli.training import pretrain

        return pretrain(arguments)
    from ser_ft.cli import main

    return main(arguments)


def make_cases(source: Path, out: Path) -> dict[str, Case]:
    """Return the commands: name -> case."""
    data = [f"--data.prepared={source / 'prepared'}", "--split.kind=kfold", "--split.folds=2"]
    small = "--model.config_overrides={channels: [8, 8]}"
    train = ["train", *data, small, "--train.epochs=4", "--train.save_steps=1", "--baselines=[majority, logistic]"]
    train += [f"--out={out}/run", "--resume=true"]
    pretrain = [*data, f"--model.name={source / 'wav2vec2'}", "--pretrain.epochs=2", "--pretrain.batch_size=8"]
    pretrain += ["--pretrain.save_steps=1", f"--out={out}/run", "--resume=true"]
    sweep = ["sweep", str(source / "tiny.yaml"), f"--out={out}/sweep"]
    run, audio = str(source / "run"), sorted(map(str, (source / "sounds").glob("*.wav")))
    export = ["export", run, f"--out={out}/model.onnx", "--overwrite"]
    evaluate = ["evaluate", "--data", str(source / "prepared"), "--include-seen-speakers", "--overwrite"]
    evaluate += [f"--out={out}/evaluation"]
    fuse = ["fuse", run, str(source / "other"), f"--out={out}/fused", "--overwrite"]
    explore = ["explore", str(source / "prepared"), f"--out={out}/explored"]
    monitor = ["monitor", *audio[:2], f"--out={out}/monitored", "--overwrite"]
    augment = ["augment", audio[0], f"--out={out}/augmented", "--only=noise,room,pitch"]
    compare = ["compare", run, str(source / "other"), f"--out={out}/comparison.html"]
    return {
        "train": Case(train, train, "run", resumes=True),
        "sweep": Case(sweep, sweep, "sweep", resumes=True),
        "export": Case(export, export, "model.onnx", [*export, "--int8"]),
        "push": Case(["push", run, "someone/mine"], ["push", run, "someone/mine", "--overwrite"], "pushed"),
        "push table": Case(
            ["push", str(source / "prepared"), "someone/table", "--accept-terms"],
            ["push", str(source / "prepared"), "someone/table", "--accept-terms", "--overwrite"],
            "pushed",
        ),
        "evaluate": Case(
            [*evaluate, run],
            [*evaluate, run],
            "evaluation",
            [*evaluate, str(source / "other")],
            reported=True,
        ),
        "fuse": Case(fuse, fuse, "fused", [*fuse, "--weights=2,1"], reported=True),
        "report": Case(
            ["report", f"{out}/run"], ["report", f"{out}/run"], "run", ["copy", run, f"{out}/run"], separate=True
        ),
        "compare": Case(compare, compare, "comparison.html", [*compare, "--baseline=mfcc-cnn"]),
        "explore": Case(explore, explore, "explored", [*explore, "--embed-audio"]),
        "augment": Case(augment, augment, "augmented", [*augment, "--seed=1"], separate=True),
        "monitor": Case(monitor, monitor, "monitored", [*monitor, "--no-audio"]),
        "pretrain": Case(pretrain, pretrain, "run", resumes=True, program="pretrain"),
    }


def make_source(source: Path) -> None:
    """Write the inputs: a table of synthetic voices, two runs, a tiny encoder, a recipe and recordings."""
    import numpy as np

    from ser_ft import audio
    from ser_ft.data.prepare import prepare
    from ser_ft.data.synthetic.corpora import write_miniature
    from tests.helpers.tiny_encoders import write_tiny_backbone

    for number in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    tree = write_miniature(source / "miniature", progress=False, speakers=2)
    prepare(tree, source / "prepared", verbose=False)
    write_tiny_backbone("wav2vec2", source / "wav2vec2")
    data = {"data": {"prepared": str(source / "prepared")}, "split": {"kind": "kfold", "folds": 2}, "baselines": []}
    model = {"name": "mfcc-cnn", "config_overrides": {"channels": [8, 8]}}
    recipe = data | {"model": model, "train": {"epochs": 2, "save_steps": 1}}
    (source / "tiny.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    for name, seed in (("run", 0), ("other", 1)):
        settings = [f"--out={source / name}", f"--seed={seed}"]
        run_program("ser-ft", ["train", "--config", str(source / "tiny.yaml"), *settings])
        shutil.rmtree(source / name / "checkpoints")
    (source / "sounds").mkdir()
    for number in range(2):
        clips = sorted(tree.rglob("*.wav"))[number * 8 :][:8]
        samples = np.concatenate([audio.decode(clip) for clip in clips])
        (source / "sounds" / f"call {number}.wav").write_bytes(audio.to_wav(samples))


class Trials:
    """Runs one case again and again, in children of this process, in which everything is imported already."""

    def __init__(self, name: str, case: Case, work: Path, hub: Any) -> None:
        self.name, self.case, self.work, self.trial, self.hub = name, case, work, work / "trial", hub
        self.out = self.trial / "out"
        self.errors = self.trial / "stderr.txt"

    def clear(self) -> None:
        for part in TRIAL_PARTS:
            shutil.rmtree(self.trial / part, ignore_errors=True)
            (self.trial / part).mkdir(parents=True)
        (self.out / "earlier").mkdir()
        shutil.copytree(self.work / "source" / "other", self.out / "earlier" / "run")
        self.hub.repositories.clear()
        self.hub.objects.clear()
        old = self.trial.parent / "old" / self.name
        if old.exists():
            shutil.copytree(old, self.out, dirs_exist_ok=True)

    def make_old(self) -> None:
        if not self.case.old:
            return
        self.clear()
        if self.case.old[0] == "copy":
            shutil.copytree(self.case.old[1], self.case.old[2])
        else:
            assert self.run(self.case.old) == 0, self.errors.read_text()
        old = self.trial.parent / "old" / self.name
        old.mkdir(parents=True)
        shutil.move(self.out / self.case.output, old / self.case.output)

    def start(self, arguments: list[str], stop_at: int | None = None, log: Path | None = None) -> Process:
        process = Process(target=self._child, args=(arguments, stop_at, log))
        process.start()
        return process

    def _child(self, arguments: list[str], stop_at: int | None, log: Path | None) -> None:
        os.setsid()
        for number in (1, 2):
            os.dup2(os.open(self.errors if number == 2 else os.devnull, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        os.chdir(self.work)
        _count_operations(self.trial, stop_at)
        code = run_program(self.case.program, arguments)
        sys.stderr.flush()
        _finish_operations(log)
        os._exit(code)

    def run(self, arguments: list[str], **options: Any) -> int:
        process = self.start(arguments, **options)
        process.join()
        return int(process.exitcode or 0)

    def kill_after(self, seconds: float) -> bool:
        process = self.start(self.case.arguments)
        process.join(seconds)
        alive = process.is_alive()
        if alive:
            with suppress(ProcessLookupError):  # it has no group of its own yet
                os.killpg(process.pid or 0, signal.SIGKILL)
            process.kill()
        process.join()
        return alive

    def state(self) -> dict[str, str]:
        """Return path -> hash of the files of the output, without those that hold times; for push: of the Hub."""
        if self.case.output == "pushed":
            return {
                f"{kind} {name} {path}": hashlib.sha256(content).hexdigest()
                for (kind, name), repository in self.hub.repositories.items()
                for path, content in repository.files.items()
            }
        return hashes(self.out / self.case.output)

    def leftovers(self) -> list[str]:
        found = [path for path in self.out.rglob("*") if path.name.startswith(".") and not path.name.endswith(".lock")]
        # torch keeps an empty cache of its compiler among the temporary files.
        temporary = [path for path in (self.trial / "tmp").iterdir() if not path.name.startswith("torchinductor_")]
        found += [path for path in temporary if not path.name.endswith(".lock")]
        found += [path for path in (self.trial / "cache" / "ser_ft").rglob(".*") if not path.name.endswith(".lock")]
        tops = [path for path in found if not any(parent in found for parent in path.parents)]
        return sorted(str(path.relative_to(self.trial)) for path in tops)


_operations = 0


def _count_operations(trial: Path, stop_at: int | None) -> None:
    """Count this process's operations that change files below a folder; end it before one of them."""
    prefix = str(trial)
    events = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"}

    def hook(event: str, details: tuple[Any, ...]) -> None:
        global _operations
        if event == "open":
            writes = details[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) if isinstance(details[2], int) else False
            if not writes:
                return
        elif event not in events:
            return
        if not str(details[0] if not isinstance(details[0], bytes) else os.fsdecode(details[0])).startswith(prefix):
            return
        _operations += 1
        if _operations == stop_at:
            os.killpg(0, signal.SIGKILL)

    sys.addaudithook(hook)


def _finish_operations(log: Path | None) -> None:
    if log is not None:
        log.write_text(str(_operations), encoding="utf-8")


def hashes(path: Path) -> dict[str, str]:
    """Return path -> hash of files; those that hold times or random names are left out."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    found = {}
    for file in files:
        inside = file.relative_to(path).as_posix() if file != path else file.name
        if file.name in VOLATILE or file.suffix in (".log", ".lock") or "checkpoints/" in f"{inside}/":
            continue
        if any(part.startswith(".") for part in Path(inside).parts):
            continue
        found[inside] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def half_written(trials: Trials, reference: dict[str, str]) -> list[str]:
    """Return the files of a resumable output whose content is neither complete nor a beginning of lines."""
    found = []
    for path, value in trials.state().items():
        file = trials.out / trials.case.output / path
        if file.name in ("history.jsonl", "config.yaml") or reference.get(path) == value:
            continue
        found.append(path)
    model = {path for path in reference if "model/" in path}
    present = {path for path in trials.state() if "model/" in path}
    if "model/model.safetensors" in reference and present and not model <= present:
        found.append("model/")
    return found


def check_interrupted(trials: Trials, reference: dict[str, str], old: dict[str, str]) -> tuple[str, list[str]]:
    """Return what the output is after an interruption, and what is wrong."""
    state, problems = trials.state(), []
    if hashes(trials.out / "earlier") != hashes_of_earlier(trials):
        problems.append("earlier results changed")
    if trials.case.resumes:
        problems += [f"half written: {path}" for path in half_written(trials, reference)]
        name = NEW if state == reference else "part" if state else ABSENT
    else:
        if trials.case.reported:
            state, reference, old = (without_figures(content) for content in (state, reference, old))
        name = NEW if state == reference else OLD if state == old and old else ABSENT if not state else BROKEN
        if name == BROKEN and trials.case.separate:
            mixed = all(value in (old.get(path), reference.get(path)) for path, value in state.items())
            name = MIXED if mixed and old.keys() <= state.keys() else BROKEN
        if name == BROKEN:
            changed = sorted(path for path in {*state, *reference} if state.get(path) != reference.get(path))
            problems.append(f"neither old nor new: {', '.join(changed[:3])}")
        if name == ABSENT and old:
            problems.append("the old output is gone")
    return name, problems


def without_figures(content: dict[str, str]) -> dict[str, str]:
    return {path: value for path, value in content.items() if not path.startswith("figures/")}


def hashes_of_earlier(trials: Trials) -> dict[str, str]:
    return {f"run/{path}": value for path, value in hashes(trials.work / "source" / "other").items()}


def check_again(trials: Trials, reference: dict[str, str]) -> list[str]:
    """Repeat the command, and return what is wrong."""
    problems = []
    code = trials.run(trials.case.again)
    if code:
        lines = trials.errors.read_text(errors="replace").strip().splitlines() or ["no message"]
        problems.append(f"again: exit code {code}: {lines[-1][:160]}")
    else:
        state = trials.state()
        if state != reference:
            changed = sorted(path for path in {*state, *reference} if state.get(path) != reference.get(path))
            problems.append(f"again: another result: {', '.join(changed[:4])}")
    problems += [f"left: {path}" for path in trials.leftovers()]
    return problems


def kill(trials: Trials, moments: int, seed: int) -> list[dict[str, Any]]:
    random_numbers = random.Random(f"{seed} {trials.name}")
    trials.make_old()
    trials.clear()
    old = trials.state()
    log, start = trials.work / "operations.txt", time.monotonic()
    code = trials.run(trials.case.arguments, log=log)
    assert code == 0, trials.errors.read_text()
    seconds, reference, operations = time.monotonic() - start, trials.state(), int(log.read_text())
    rows = []
    clean = trials.leftovers()
    if clean:
        rows.append({"at": "undisturbed", "was": NEW, "problems": [f"left: {path}" for path in clean]})
    for number in range(moments):
        trials.clear()
        if number % 2 == 0 or not operations:
            moment = random_numbers.uniform(0.02, seconds)
            killed, at = trials.kill_after(moment), f"{moment:.2f} of {seconds:.2f} s"
        else:
            operation = random_numbers.randint(1, operations)
            code = trials.run(trials.case.arguments, stop_at=operation)
            killed, at = code < 0, f"operation {operation} of {operations}"
        was, problems = check_interrupted(trials, reference, old)
        problems += check_again(trials, reference)
        rows.append({"at": at, "was": was if killed else "finished", "problems": problems})
    return rows


def full(trials: Trials, sizes: list[float]) -> list[dict[str, Any]]:
    trials.make_old()
    trials.clear()
    old, start_sizes = trials.state(), {part: used(trials.trial / part) for part in TRIAL_PARTS}
    peak = dict(start_sizes)
    process = trials.start(trials.case.arguments)
    while process.is_alive():
        process.join(0.02)
        peak = {part: max(peak[part], used(trials.trial / part)) for part in TRIAL_PARTS}
    assert process.exitcode == 0, trials.errors.read_text()
    reference, rows = trials.state(), []
    for part in TRIAL_PARTS:
        needed = peak[part] - start_sizes[part]
        for size in sizes if needed > 16384 else ():
            trials.clear()
            mount_point = trials.trial / part
            kept = trials.trial / "kept"
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(mount_point, kept)
            capacity = start_sizes[part] + int(size * needed) // 4096 * 4096
            mount = ["mount", "-t", "tmpfs", "-o"]
            subprocess.run([*mount, "size=1g", "none", mount_point], check=True)
            try:
                shutil.copytree(kept, mount_point, dirs_exist_ok=True)
                filled = used(mount_point)
                capacity = max(filled + 4096, filled + int(size * needed) // 4096 * 4096)
                subprocess.run([*mount, f"remount,size={capacity}", mount_point], check=True)
                code = trials.run(trials.case.arguments)
                lines = trials.errors.read_text(errors="replace").strip().splitlines()
                was, problems = check_interrupted(trials, reference, old)
                messages = [line for line in lines if line.startswith("ser-ft")]
                refused = code == 2 and "GB are free" in (lines or [""])[-1]
                if code not in (0, 1) and not refused:
                    problems.append(f"exit code {code}: {(lines or [''])[-1][:200]}")
                if (
                    code
                    and not refused
                    and (len(messages) != 1 or "disk" not in messages[0] or any("Traceback" in line for line in lines))
                ):
                    problems.append(f"says: {' | '.join(lines[-4:])[:500]} ({len(lines)} lines)")
                subprocess.run([*mount, "remount,size=1g", mount_point], check=True)
                problems += check_again(trials, reference)
                message = messages[0] if messages else ""
            finally:
                subprocess.run(["umount", mount_point], check=True)
            at = f"{part}: room for {int(size * needed) / 1024:.0f} of {needed / 1024:.0f} KiB"
            rows.append({"at": at, "was": was if code else "finished", "problems": problems, "message": message})
    return rows


def used(folder: Path) -> int:
    """Return the bytes that a folder's files take, in blocks of 4 KiB."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += -(-Path(parent, name).stat().st_size // 4096) * 4096
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("kill", "full"))
    parser.add_argument("--only", help="names of commands, separated by commas")
    parser.add_argument("--moments", type=int, default=10)
    parser.add_argument("--sizes", default="0,0.3,0.6,0.95", help="room on the disk, as shares of what a run writes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--work", default=str(Path(tempfile.gettempdir(), "ser_ft-interruptions")), help="a folder that is replaced"
    )
    parser.add_argument("--out", help="a JSON file of all trials")
    options = parser.parse_args()
    work = Path(options.work)
    shutil.rmtree(work, ignore_errors=True)
    trial = work / "trial"
    (trial / "tmp").mkdir(parents=True)
    from tests.helpers.hub_server import TOKEN, Hub

    with Hub().serving() as hub:
        os.environ |= {
            "TMPDIR": str(trial / "tmp"),
            "SER_FT_CACHE": str(trial / "cache" / "ser_ft"),
            "HF_HOME": str(trial / "cache" / "huggingface"),
            "HF_DATASETS_CACHE": str(trial / "cache" / "datasets"),
            "HF_ENDPOINT": hub.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": TOKEN,
            "OMP_NUM_THREADS": "1",
        }
        os.environ.pop("HF_HUB_OFFLINE", None)
        make_source_in_child(work / "source")
        import_everything()
        results = {}
        cases = make_cases(work / "source", trial / "out")
        for name in options.only.split(",") if options.only else cases:
            trials = Trials(name, cases[name], work, hub)
            sizes = [float(size) for size in options.sizes.split(",")]
            try:
                rows = kill(trials, options.moments, options.seed) if options.what == "kill" else full(trials, sizes)
            except AssertionError as error:
                rows = [{"at": "undisturbed", "was": "failed", "problems": [str(error)[-300:]]}]
            results[name] = rows
            failed = [row for row in rows if row["problems"]]
            states = ", ".join(
                f"{sum(row['was'] == was for row in rows)} {was}" for was in dict.fromkeys(r["was"] for r in rows)
            )
            print(f"{name:11} {len(rows) - len(failed)} of {len(rows)} passed ({states})", flush=True)
            for row in failed:
                print(f"    {row['at']}: {row['was']}: {'; '.join(row['problems'])}", flush=True)
    if options.out:
        Path(options.out).write_text(json.dumps(results, indent=1), encoding="utf-8")
    return int(any(row["problems"] for rows in results.values() for row in rows))


def make_source_in_child(source: Path) -> None:
    process = Process(target=make_source, args=(source,))
    process.start()
    process.join()
    assert process.exitcode == 0


def import_everything() -> None:
    import matplotlib.figure
    import onnx
    import onnxruntime

    import ser_ft.export.onnx
    import ser_ft.hub
    import ser_ft.monitor.report
    import ser_ft.pipeline
    import ser_ft.report.exploration.report
    import ser_ft.training.wav2vec2.run

    _ = matplotlib, onnx, onnxruntime, ser_ft


if __name__ == "__main__":
    sys.exit(main())
