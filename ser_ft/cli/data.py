"""The commands of `ser-ft` for recordings: prepare, audit, explore and augment."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..labels import make_scheme
from ..report.shared.tables import format_rows
from ..utils.errors import InputError
from ..utils.text import print_text, text_table
from .arguments import Commands, add_command, add_format, parse_mapping, parse_pairs

if TYPE_CHECKING:
    import datasets

    from ..data.audit import Finding

_MAX_ROWS = 20  # findings of a kind in the table


def add_prepare(commands: Commands) -> None:
    """Add `ser-ft prepare`."""
    about = "turn folders and archives of recordings into one table under one label scheme"
    details = (
        "Corpora are recognized by their file names. Your own data is a folder per emotion (EMOTION/SPEAKER/clip.wav) "
        "or a CSV manifest (columns path, emotion, speaker, ...; or file_name and label)."
    )
    add = add_command(commands, "prepare", _prepare, about, details).add_argument
    roots = "folder, .zip archive or manifest; NAME=ROOT names its corpus; miniature: synthetic voices"
    add("roots", nargs="*", metavar="ROOT", help=roots)
    add("--out", required=True, help="folder of the table, for `datasets.load_from_disk`")
    add("--labels", default="eight", help="eight, seven, six, four, or happy=positive,angry=negative,...")
    add("--calm", default="keep", help="keep, neutral or drop")
    add("--include-song", action="store_true", help="include RAVDESS's song recordings")
    cremad_labels = "intended, voice (the listeners' majority label) or voice-soft"
    add("--cremad-labels", default="intended", help=cremad_labels)
    note = "show this text with the corpus's results"
    add("--note", action="append", default=[], metavar="CORPUS=TEXT", help=note)
    download = "download a freely available corpus into the first ROOT"
    add("--download", action="append", default=[], metavar="CORPUS", help=download)
    add("--dataset", help="instead of roots: a data set on the Hub, or a folder saved by `datasets`")
    columns = "for --dataset: audio, emotion, speaker, gender, ..."
    add("--columns", default="", metavar="OURS=THEIRS,...", help=columns)
    add("--dataset-split", default="train", help="for --dataset: which of its splits")
    add("--name", default="own", help="for --dataset: name of the corpus")


def add_audit(commands: Commands) -> None:
    """Add `ser-ft audit`."""
    about = "find leakage: duplicate recordings, speakers in two parts of a split, silent clips"
    details = (
        "Recordings are recognized by their sound, also if they were re-encoded, filtered, trimmed or shifted. The "
        "exit code is 0 if nothing is found, 1 if something is, 2 for wrong input."
    )
    parser = add_command(commands, "audit", _audit, about, details)
    parser.add_argument("prepared", metavar="PREPARED", help="a table written by `ser-ft prepare`")
    split = "a run folder, its split.json, or a split file; findings across its parts are shown first"
    parser.add_argument("--split", metavar="FILE", help=split)
    add_format(parser)


def add_explore(commands: Commands) -> None:
    """Add `ser-ft explore`."""
    about = "report what is in a data set: emotions, speakers, levels, pitch, what separates the classes"
    details = (
        "Writes a self-contained page, its figures and a table of measurements. For a folder of recordings without "
        "labels, the parts that need labels are omitted."
    )
    add = add_command(commands, "explore", _explore, about, details).add_argument
    add("source", metavar="SOURCE", help="a table written by `ser-ft prepare`, or a folder")
    add("--out", metavar="FOLDER", help="folder of the report (default: explore-NAME)")
    add("--embed-audio", action="store_true", help="embed the clips that are shown in the page, with players")


class _TransformHelp(argparse._HelpAction):
    """Lists the transforms, which are slow to import, only when help is requested."""

    def __call__(self, parser: argparse.ArgumentParser, *args: Any) -> None:
        from ..data.augmentation.transforms import describe_transforms

        heading = "transforms, in the order in which they are applied, and their default settings:"
        parser.epilog = f"{heading}\n{describe_transforms()}"
        super().__call__(parser, *args)


def add_augment(commands: Commands) -> None:
    """Add `ser-ft augment`."""
    about = "hear and see what each augmentation does to a recording"
    details = (
        "Writes a version of the recording for each transform, with settings sampled from its default ranges, and a "
        "figure with the waveform and the spectrogram of each version and of the original. The files are listed on "
        "standard output. In a recipe, augment.transforms takes the transforms and settings below, and p, the "
        "probability of a transform."
    )
    layout = {"add_help": False, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = add_command(commands, "augment", _augment, about, details, **layout)
    parser.description = textwrap.fill(str(parser.description), 80)
    add = parser.add_argument
    add("-h", "--help", action=_TransformHelp, help="show this help message and exit")
    add("clip", metavar="CLIP", help="a sound file of up to 30 s")
    add("--out", required=True, metavar="DIR", help="the folder that the files are written to")
    add("--seed", type=int, default=0, help="random seed of the settings (default: 0)")
    add("--only", metavar="NAME,...", help="only these transforms, for example noise,room")
    add("--noise-dir", metavar="DIR", help="a folder of recordings for the transform background")


def _prepare(args: argparse.Namespace) -> None:
    from ..data.prepare import check_prepare_output, prepare, prepare_table

    labels = parse_pairs(args.labels, "--labels") if "=" in args.labels else args.labels
    make_scheme(labels, args.calm)
    check_prepare_output(args.out)
    if args.dataset:
        options = {"ROOT": args.roots, "--note": args.note, "--download": args.download}
        options |= {"--include-song": args.include_song, "--cremad-labels": args.cremad_labels != "intended"}
        if excluded := next((name for name, value in options.items() if value), None):
            raise InputError(f"{excluded} cannot be combined with --dataset")
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
    notes = parse_mapping(args.note, "--note")
    song, cremad_labels = args.include_song, args.cremad_labels
    prepare(roots, args.out, labels, args.calm, include_song=song, cremad_labels=cremad_labels, notes=notes)


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

    table = open_prepared(args.prepared)
    findings = audit(table, args.split)
    is_table, split = args.format == "table", args.split is not None
    print_text(_findings_text(findings, table, split) if is_table else format_rows(finding_rows(findings), args.format))
    return 1 if findings else 0


def _findings_text(findings: list[Finding], table: datasets.Dataset, split: bool) -> str:
    from ..data.audit import finding_rows, group_findings

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

    print_text(explore(args.source, args.out, args.embed_audio))


def _augment(args: argparse.Namespace) -> None:
    from ..report.exploration.augmentations import write_augmentations

    only = [name.strip() for name in args.only.split(",")] if args.only is not None else None
    for file in write_augmentations(args.clip, args.out, args.seed, only, args.noise_dir):
        print_text(file)
