"""The `ser-ft` command: thin; each subcommand calls the function that does the work."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .emotions import scheme
from .errors import InputError, guarded, without_debug

_DESCRIPTION = "Fine-tune pretrained speech models to recognise emotion in speech."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0 on success, 2 for wrong input, 130 when interrupted."""
    given = without_debug(arguments)
    # A recipe's settings are read by their own parser, which knows every one of them.
    if given[:1] == ["train"]:
        return train(given[1:], "ser-ft train")
    parser = _parser()

    def work() -> None:
        chosen = parser.parse_args(given or ["--help"])
        chosen.work(chosen)

    return guarded(work)


def train(arguments: Sequence[str] | None = None, program: str = "finetune.py") -> int:
    """Read a recipe and carry it out: `ser-ft train`, and `recipes/finetune.py`; return the exit code as `main`."""
    given = without_debug(arguments)

    def work() -> None:
        from .training.parsing import parse

        recipe = parse(given, program)
        from .road import run

        run(recipe)

    return guarded(work)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage text."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise InputError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="ser-ft", description=_DESCRIPTION, epilog="Each command has its own --help. --debug shows traces."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    _add_quickstart(commands)
    _add_prepare(commands)
    _add_explore(commands)
    _add_augment(commands)
    commands.add_parser("train", help="train, evaluate and report a model as a recipe says", add_help=False)
    _add_probe(commands)
    _add_report(commands)
    return parser


def _add_quickstart(commands: argparse._SubParsersAction[_Parser]) -> None:
    about = "train and compare on ser_ft's own synthetic voices, in a few minutes, without data and without a network"
    parser = commands.add_parser("quickstart", help=about, description=about.capitalize() + ".")
    parser.add_argument("--out", default=None, help="the run folder (default: runs/quickstart)")
    parser.set_defaults(work=_quickstart)


def _add_prepare(commands: argparse._SubParsersAction[_Parser]) -> None:
    about = "turn folders and archives of recordings into one table under one label scheme"
    parser = commands.add_parser(
        "prepare",
        help=about,
        description=about.capitalize() + ". Corpora are told by their file names; data of your own is a folder per "
        "emotion (EMOTION/SPEAKER/clip.wav) or a CSV manifest (columns path, emotion, speaker, ...).",
    )
    parser.add_argument(
        "roots",
        nargs="*",
        metavar="ROOT",
        help="folder, .zip archive or manifest; NAME=ROOT names its corpus; miniature: synthetic voices",
    )
    parser.add_argument("--out", required=True, help="where the table is written; `datasets.load_from_disk` reads it")
    parser.add_argument(
        "--labels", default="eight", help="eight, seven, six, four, or happy=positive,angry=negative,..."
    )
    parser.add_argument("--calm", default="keep", help="keep, neutral or drop")
    parser.add_argument("--include-song", action="store_true", help="take RAVDESS's song recordings in")
    parser.add_argument(
        "--cremad-labels", default="intended", help="intended, voice (what listeners heard) or voice-soft"
    )
    parser.add_argument(
        "--note", action="append", default=[], metavar="CORPUS=TEXT", help="say this wherever its results are shown"
    )
    parser.add_argument(
        "--download",
        action="append",
        default=[],
        metavar="CORPUS",
        help="fetch a corpus that may be fetched freely, into the first ROOT",
    )
    parser.add_argument("--dataset", help="instead of roots: a data set of the Hub, or a folder that `datasets` saved")
    parser.add_argument(
        "--columns", default="", metavar="OURS=THEIRS,...", help="for --dataset: audio, emotion, speaker, gender, ..."
    )
    parser.add_argument("--dataset-split", default="train", help="for --dataset: which of its splits")
    parser.add_argument("--name", default="own", help="for --dataset: what to call it")
    parser.set_defaults(work=_prepare)


class _TransformHelp(argparse._HelpAction):
    """Lists the transforms, which take a moment to import, only where help is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *given: Any) -> None:
        from .data.transforms import listing

        parser.epilog = (
            "transforms, in the order in which they are applied, and their settings by default:\n" + listing()
        )
        super().__call__(parser, *given)


def _add_augment(commands: argparse._SubParsersAction[_Parser]) -> None:
    about = "hear and see what each augmentation does to a recording"
    parser = commands.add_parser(
        "augment",
        help=about,
        description=textwrap.fill(
            about.capitalize() + ". A version of the recording is written for each transform, with settings drawn from "
            "its default ranges, and a figure with the waveform and the spectrogram of each beside the original's. The "
            "files are listed on standard output. In a recipe, augment.transforms takes the transforms and settings "
            "below, and p, the probability that a clip has it.",
            80,
        ),
        add_help=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-h", "--help", action=_TransformHelp, help="show this help message and exit")
    parser.add_argument("clip", metavar="CLIP", help="a sound file of up to 30 s")
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder that the files are written to")
    parser.add_argument("--seed", type=int, default=0, help="of the draws: another seed, other settings (default: 0)")
    parser.add_argument("--only", metavar="NAME,...", help="these transforms alone, such as noise,room")
    parser.add_argument("--noises", metavar="DIR", help="a folder of recordings to be heard in the background")
    parser.set_defaults(work=_augment)


def _add_explore(commands: argparse._SubParsersAction[_Parser]) -> None:
    about = "report what is in a data set: emotions, speakers, levels, pitch, what tells the clips apart"
    parser = commands.add_parser(
        "explore",
        help=about,
        description=about.capitalize() + ". One page that holds everything, its pictures and a table of measures "
        "beside it. A folder of recordings without labels is reported less what needs labels.",
    )
    parser.add_argument(
        "source", metavar="SOURCE", help="a table that `ser-ft prepare` wrote, or a folder of recordings"
    )
    parser.add_argument("--out", metavar="FOLDER", help="where the report is written (default: explore-NAME)")
    parser.add_argument(
        "--players", action="store_true", help="put the clips that are shown into the page, to be played"
    )
    parser.set_defaults(work=_explore)


def _add_probe(commands: argparse._SubParsersAction[_Parser]) -> None:
    from .report.tables import FORMATS

    about = "score every layer of pretrained encoders: which to fine-tune, and how deep"
    parser = commands.add_parser(
        "probe",
        help=about,
        description=about.capitalize() + ". Each clip goes through an encoder once; a linear classifier is fitted on "
        "the states of each layer, with folds by speaker, and its UAR on unheard speakers is printed. The states are "
        "kept: probing again, or with another split, takes seconds.",
    )
    parser.add_argument(
        "backbones",
        nargs="+",
        metavar="BACKBONE",
        help="a name on the Hub, such as facebook/wav2vec2-base, or a folder",
    )
    parser.add_argument("--data", required=True, metavar="PREPARED", help="a table that `ser-ft prepare` wrote")
    parser.add_argument("--pooling", default="mean", help="of the states over time: mean or mean+std (default: mean)")
    parser.add_argument("--folds", type=int, default=5, help="by speaker (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="of the folds' draw (default: 0)")
    parser.add_argument(
        "--split", metavar="FILE", help="a run's split.json, or a split file: probe its training speakers alone"
    )
    parser.add_argument(
        "--precision", default="auto", help="of the encoder: auto (the fastest here), no (float32) or bf16"
    )
    parser.add_argument("--format", default="table", choices=FORMATS, help="table, csv, json or jsonl")
    parser.add_argument("--figure", metavar="FILE.png", help="draw the layers' UAR there")
    parser.set_defaults(work=_probe)


def _add_report(commands: argparse._SubParsersAction[_Parser]) -> None:
    about = "report a finished run anew; with its data, sample recordings can be played in the report"
    parser = commands.add_parser("report", help=about, description=about.capitalize() + ".")
    parser.add_argument("run", metavar="RUN", help="the run folder")
    parser.add_argument("--data", help="the table that the run was made from: its recordings go into the report")
    parser.set_defaults(work=_report)


def _quickstart(chosen: argparse.Namespace) -> None:
    from .training.parsing import parse

    given = ["--config", str(recipe_folder() / "quickstart.yaml"), *(["--out", chosen.out] if chosen.out else [])]
    recipe = parse(given, "ser-ft quickstart")
    from .road import run

    run(recipe)


def recipe_folder() -> Path:
    """Return the folder of the recipes: in the package where it is installed, beside it in a checkout."""
    here = Path(__file__).resolve().parent
    return next(folder for folder in (here / "recipes", here.parent / "recipes") if folder.is_dir())


def _prepare(chosen: argparse.Namespace) -> None:
    from .data.prepare import check_out, prepare, prepare_table

    labels = _pairs(chosen.labels, "--labels") if "=" in chosen.labels else chosen.labels
    scheme(labels, chosen.calm)
    check_out(Path(chosen.out))
    if chosen.dataset:
        given = {"ROOT": chosen.roots, "--note": chosen.note, "--download": chosen.download}
        given |= {"--include-song": chosen.include_song, "--cremad-labels": chosen.cremad_labels != "intended"}
        for name, value in given.items():
            if value:
                raise InputError(f"{name} does not go with --dataset")
        columns = _pairs(chosen.columns, "--columns")
        prepare_table(
            chosen.dataset,
            columns,
            chosen.out,
            chosen.name,
            split=chosen.dataset_split,
            labels=labels,
            calm=chosen.calm,
        )
        return
    for name, default in (("columns", ""), ("dataset_split", "train"), ("name", "own")):
        if getattr(chosen, name) != default:
            raise InputError(f"--{name.replace('_', '-')} goes with --dataset alone")
    if not chosen.roots:
        raise InputError("name one or more folders of recordings, or `miniature` for ser_ft's own synthetic voices")
    roots = _roots(chosen.roots)
    if chosen.download and not isinstance(roots, list):
        raise InputError("--download fetches into a folder: name it, without CORPUS=")
    for corpus in chosen.download:
        from .data.download import download

        download(corpus, chosen.roots[0])
    prepare(
        roots,
        chosen.out,
        labels,
        chosen.calm,
        include_song=chosen.include_song,
        cremad_labels=chosen.cremad_labels,
        notes=_mapping(chosen.note, "--note"),
    )


def _augment(chosen: argparse.Namespace) -> None:
    from .report.augmentations import write_augmentations

    only = [name.strip() for name in chosen.only.split(",")] if chosen.only is not None else None
    for file in write_augmentations(chosen.clip, chosen.out, chosen.seed, only, chosen.noises):
        print(file)


def _explore(chosen: argparse.Namespace) -> None:
    from .report.explore import explore

    print(explore(chosen.source, chosen.out, chosen.players))


def _probe(chosen: argparse.Namespace) -> None:
    from .report.figures import check_file, write_layers
    from .report.tables import ALL_SEEN, layer_rows, layer_text, render

    figure = check_file(chosen.figure) if chosen.figure else None
    from .training.probe import probe

    found = probe(
        chosen.backbones,
        chosen.data,
        chosen.pooling,
        chosen.folds,
        chosen.seed,
        chosen.split,
        chosen.precision,
    )
    if chosen.format == "table":
        print(layer_text(found))
    else:
        print(render(layer_rows(found), chosen.format))
        if chosen.split is None:
            print(f"note: {ALL_SEEN}", file=sys.stderr)
    if figure is not None:
        print(f"figure: {write_layers(found, figure)}", file=sys.stderr)


def _report(chosen: argparse.Namespace) -> None:
    from .report.html import write_report
    from .results.runs import RunFolder

    run = RunFolder.open(chosen.run)
    table = None
    if chosen.data:
        from .data.prepare import open_prepared

        table = open_prepared(chosen.data)
    print(write_report(run, table))


def _roots(words: list[str]) -> str | list[str] | dict[str, str]:
    """Read roots as people write them: FOLDER, or CORPUS=FOLDER for every one of them."""
    if words == ["miniature"]:
        return "miniature"
    named = ["=" in word and not Path(word).exists() for word in words]
    if any(named) and not all(named):
        raise InputError("either every root is CORPUS=FOLDER, or none is")
    return _mapping(words, "ROOT") if all(named) else words


def _pair(text: str, what: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip() or not value.strip():
        raise InputError(f"{what} is written NAME=VALUE, not {text!r}")
    return name.strip(), value.strip()


def _pairs(text: str, what: str) -> dict[str, str]:
    return _mapping([pair for pair in text.split(",") if pair.strip()], what)


def _mapping(words: list[str], what: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for name, value in (_pair(word, what) for word in words):
        if name in pairs:
            raise InputError(f"{what}: {name} is given twice")
        pairs[name] = value
    return pairs


if __name__ == "__main__":
    sys.exit(main())
