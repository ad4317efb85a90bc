"""The commands of `ser-ft` for recordings: prepare, audit, explore and augment."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..labels import make_scheme
from ..utils.errors import InputError
from .arguments import parse_mapping, parse_pairs

if TYPE_CHECKING:
    import datasets

    from ..data.audit import Finding

_MAX_ROWS = 20  # findings of a kind in the table


def add_prepare(commands: argparse._SubParsersAction[Any]) -> None:
    """Add `ser-ft prepare`."""
    about = "turn folders and archives of recordings into one table under one label scheme"
    parser = commands.add_parser(
        "prepare",
        help=about,
        description=about.capitalize() + ". Corpora are recognized by their file names. Your own data is a folder per "
        "emotion (EMOTION/SPEAKER/clip.wav) or a CSV manifest (columns path, emotion, speaker, ...).",
    )
    parser.add_argument(
        "roots",
        nargs="*",
        metavar="ROOT",
        help="folder, .zip archive or manifest; NAME=ROOT names its corpus; miniature: synthetic voices",
    )
    parser.add_argument("--out", required=True, help="folder of the table, for `datasets.load_from_disk`")
    parser.add_argument(
        "--labels", default="eight", help="eight, seven, six, four, or happy=positive,angry=negative,..."
    )
    parser.add_argument("--calm", default="keep", help="keep, neutral or drop")
    parser.add_argument("--include-song", action="store_true", help="include RAVDESS's song recordings")
    parser.add_argument(
        "--cremad-labels", default="intended", help="intended, voice (the listeners' majority label) or voice-soft"
    )
    parser.add_argument(
        "--note", action="append", default=[], metavar="CORPUS=TEXT", help="show this text with the corpus's results"
    )
    parser.add_argument(
        "--download",
        action="append",
        default=[],
        metavar="CORPUS",
        help="download a freely available corpus into the first ROOT",
    )
    parser.add_argument("--dataset", help="instead of roots: a data set on the Hub, or a folder saved by `datasets`")
    parser.add_argument(
        "--columns", default="", metavar="OURS=THEIRS,...", help="for --dataset: audio, emotion, speaker, gender, ..."
    )
    parser.add_argument("--dataset-split", default="train", help="for --dataset: which of its splits")
    parser.add_argument("--name", default="own", help="for --dataset: name of the corpus")
    parser.set_defaults(work=_prepare)


def add_audit(commands: argparse._SubParsersAction[Any]) -> None:
    """Add `ser-ft audit`."""
    from ..report.shared.tables import FORMATS

    about = "find leakage: duplicate recordings, speakers in two parts of a split, silent clips"
    parser = commands.add_parser(
        "audit",
        help=about,
        description=about.capitalize() + ". Recordings are recognized by their sound, also if they were re-encoded, "
        "filtered, trimmed or shifted. The exit code is 0 if nothing is found, 1 if something is, 2 for wrong input.",
    )
    parser.add_argument("prepared", metavar="PREPARED", help="a table written by `ser-ft prepare`")
    parser.add_argument(
        "--split",
        metavar="FILE",
        help="a run folder, its split.json, or a split file; findings across its parts are shown first",
    )
    parser.add_argument("--format", default="table", choices=FORMATS, help="table, csv, json or jsonl")
    parser.set_defaults(work=_audit)


def add_explore(commands: argparse._SubParsersAction[Any]) -> None:
    """Add `ser-ft explore`."""
    about = "report what is in a data set: emotions, speakers, levels, pitch, what separates the classes"
    parser = commands.add_parser(
        "explore",
        help=about,
        description=about.capitalize() + ". Writes a self-contained page, its figures and a table of measurements. For "
        "a folder of recordings without labels, the parts that need labels are omitted.",
    )
    parser.add_argument("source", metavar="SOURCE", help="a table written by `ser-ft prepare`, or a folder")
    parser.add_argument("--out", metavar="FOLDER", help="folder of the report (default: explore-NAME)")
    parser.add_argument(
        "--embed-audio", action="store_true", help="embed the clips that are shown in the page, with players"
    )
    parser.set_defaults(work=_explore)


class _TransformHelp(argparse._HelpAction):
    """Lists the transforms, which are slow to import, only when help is requested."""

    def __call__(self, parser: argparse.ArgumentParser, *args: Any) -> None:
        from ..data.augmentation.transforms import describe_transforms

        heading = "transforms, in the order in which they are applied, and their default settings:"
        parser.epilog = f"{heading}\n{describe_transforms()}"
        super().__call__(parser, *args)


def add_augment(commands: argparse._SubParsersAction[Any]) -> None:
    """Add `ser-ft augment`."""
    about = "hear and see what each augmentation does to a recording"
    parser = commands.add_parser(
        "augment",
        help=about,
        description=textwrap.fill(
            about.capitalize() + ". Writes a version of the recording for each transform, with settings sampled from "
            "its default ranges, and a figure with the waveform and the spectrogram of each version and of the "
            "original. The files are listed on standard output. In a recipe, augment.transforms takes the transforms "
            "and settings below, and p, the probability of a transform.",
            80,
        ),
        add_help=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-h", "--help", action=_TransformHelp, help="show this help message and exit")
    parser.add_argument("clip", metavar="CLIP", help="a sound file of up to 30 s")
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder that the files are written to")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the settings (default: 0)")
    parser.add_argument("--only", metavar="NAME,...", help="only these transforms, for example noise,room")
    parser.add_argument("--noise-dir", metavar="DIR", help="a folder of recordings for the transform background")
    parser.set_defaults(work=_augment)


def _prepare(args: argparse.Namespace) -> None:
    from ..data.prepare import check_prepare_output, prepare, prepare_table

    labels = parse_pairs(args.labels, "--labels") if "=" in args.labels else args.labels
    make_scheme(labels, args.calm)
    check_prepare_output(args.out)
    if args.dataset:
        options = {"ROOT": args.roots, "--note": args.note, "--download": args.download}
        options |= {"--include-song": args.include_song, "--cremad-labels": args.cremad_labels != "intended"}
        for name, value in options.items():
            if value:
                raise InputError(f"{name} cannot be combined with --dataset")
        columns = parse_pairs(args.columns, "--columns")
        prepare_table(
            args.dataset, columns, args.out, args.name, split=args.dataset_split, labels=labels, calm=args.calm
        )
        return
    for name, default in (("columns", ""), ("dataset_split", "train"), ("name", "own")):
        if getattr(args, name) != default:
            raise InputError(f"--{name.replace('_', '-')} needs --dataset")
    if not args.roots:
        raise InputError("name one or more folders of recordings, or `miniature` for ser_ft's synthetic voices")
    roots = _parse_roots(args.roots)
    if args.download and not isinstance(roots, list):
        raise InputError("--download needs a folder to download into: name it without CORPUS=")
    for corpus in args.download:
        from ..data.download import download

        download(corpus, args.roots[0])
    prepare(
        roots,
        args.out,
        labels,
        args.calm,
        include_song=args.include_song,
        cremad_labels=args.cremad_labels,
        notes=parse_mapping(args.note, "--note"),
    )


def _parse_roots(roots: list[str]) -> str | list[str] | dict[str, str]:
    if roots == ["miniature"]:
        return "miniature"
    named = ["=" in root and not Path(root).exists() for root in roots]
    if any(named) and not all(named):
        raise InputError("either all roots must be written CORPUS=FOLDER, or none")
    return parse_mapping(roots, "ROOT") if all(named) else roots


def _audit(args: argparse.Namespace) -> int:
    from ..data.audit import audit, finding_rows
    from ..data.prepare import open_prepared
    from ..report.shared.tables import format_rows

    table = open_prepared(args.prepared)
    findings = audit(table, args.split)
    if args.format == "table":
        print(_findings_text(findings, table, args.split is not None))
    else:
        print(format_rows(finding_rows(findings), args.format))
    return 1 if findings else 0


def _findings_text(findings: list[Finding], table: datasets.Dataset, split: bool) -> str:
    from ..data.audit import finding_rows, group_findings
    from ..utils.text import text_table

    lines = [f"audited: {len(table):,} clips of {len(set(table['speaker'])):,} speakers"]
    if not findings:
        no_leak = ", no speaker in two parts of the split" if split else ""
        return f"{lines[0]}\nnothing found: no duplicate recording{no_leak}, no silent clip"
    for heading, group in group_findings(findings, split):
        rows = finding_rows(group[:_MAX_ROWS])
        columns = [key for key in rows[0] if key != "kind" and any(row[key] not in (None, []) for row in rows)]
        lines += ["", heading + ":", text_table(rows, columns)]
        if len(group) > _MAX_ROWS:
            lines.append(f"... and {len(group) - _MAX_ROWS:,} more: --format csv shows all")
    return "\n".join(lines)


def _explore(args: argparse.Namespace) -> None:
    from ..report.exploration.report import explore

    print(explore(args.source, args.out, args.embed_audio))


def _augment(args: argparse.Namespace) -> None:
    from ..report.exploration.augmentations import write_augmentations

    only = [name.strip() for name in args.only.split(",")] if args.only is not None else None
    for file in write_augmentations(args.clip, args.out, args.seed, only, args.noise_dir):
        print(file)
