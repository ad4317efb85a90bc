"""The commands of `ser-ft` that are about recordings: prepare, audit, explore and augment."""

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

_SHOWN = 20  # rows of a section, for people


def add_prepare(commands: argparse._SubParsersAction[Any]) -> None:
    """Add `ser-ft prepare`."""
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


def add_audit(commands: argparse._SubParsersAction[Any]) -> None:
    """Add `ser-ft audit`."""
    from ..report.shared.tables import FORMATS

    about = "look for what leaks: recordings that stand in two places, speakers on two sides of a split, silence"
    parser = commands.add_parser(
        "audit",
        help=about,
        description=about.capitalize() + ". Recordings are told by their sound, also where they were encoded anew, "
        "filtered, trimmed or shifted. The exit code is 0 where nothing is found, 1 where something is, 2 for wrong "
        "input.",
    )
    parser.add_argument("prepared", metavar="PREPARED", help="a table that `ser-ft prepare` wrote")
    parser.add_argument(
        "--split",
        metavar="FILE",
        help="a run folder, its split.json, or a split file: what is on two sides comes first",
    )
    parser.add_argument("--format", default="table", choices=FORMATS, help="table, csv, json or jsonl")
    parser.set_defaults(work=_audit)


def add_explore(commands: argparse._SubParsersAction[Any]) -> None:
    """Add `ser-ft explore`."""
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
        "--embed-audio", action="store_true", help="put the clips that are shown into the page, to be played"
    )
    parser.set_defaults(work=_explore)


class _TransformHelp(argparse._HelpAction):
    """Lists the transforms, which take a moment to import, only where help is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *given: Any) -> None:
        from ..data.augmentation.transforms import describe_transforms

        parser.epilog = (
            "transforms, in the order in which they are applied, and their settings by default:\n"
            + describe_transforms()
        )
        super().__call__(parser, *given)


def add_augment(commands: argparse._SubParsersAction[Any]) -> None:
    """Add `ser-ft augment`."""
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
    parser.add_argument("--noise-dir", metavar="DIR", help="a folder of recordings to be heard in the background")
    parser.set_defaults(work=_augment)


def _prepare(chosen: argparse.Namespace) -> None:
    from ..data.prepare import check_out, prepare, prepare_table

    labels = parse_pairs(chosen.labels, "--labels") if "=" in chosen.labels else chosen.labels
    make_scheme(labels, chosen.calm)
    check_out(Path(chosen.out))
    if chosen.dataset:
        given = {"ROOT": chosen.roots, "--note": chosen.note, "--download": chosen.download}
        given |= {"--include-song": chosen.include_song, "--cremad-labels": chosen.cremad_labels != "intended"}
        for name, value in given.items():
            if value:
                raise InputError(f"{name} does not go with --dataset")
        columns = parse_pairs(chosen.columns, "--columns")
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
        from ..data.download import download

        download(corpus, chosen.roots[0])
    prepare(
        roots,
        chosen.out,
        labels,
        chosen.calm,
        include_song=chosen.include_song,
        cremad_labels=chosen.cremad_labels,
        notes=parse_mapping(chosen.note, "--note"),
    )


def _roots(words: list[str]) -> str | list[str] | dict[str, str]:
    """Read roots as people write them: FOLDER, or CORPUS=FOLDER for every one of them."""
    if words == ["miniature"]:
        return "miniature"
    named = ["=" in word and not Path(word).exists() for word in words]
    if any(named) and not all(named):
        raise InputError("either every root is CORPUS=FOLDER, or none is")
    return parse_mapping(words, "ROOT") if all(named) else words


def _audit(chosen: argparse.Namespace) -> int:
    from ..data.audit import audit, finding_rows
    from ..data.prepare import open_prepared
    from ..report.shared.tables import format_rows

    table = open_prepared(chosen.prepared)
    found = audit(table, chosen.split)
    if chosen.format == "table":
        print(_text(found, table, chosen.split is not None))
    else:
        print(format_rows(finding_rows(found), chosen.format))
    return 1 if found else 0


def _text(found: list[Finding], table: datasets.Dataset, split: bool) -> str:
    from ..data.audit import finding_rows, group_findings
    from ..utils.text import text_table

    looked = f"audited: {len(table):,} clips of {len(set(table['speaker'])):,} speakers"
    if not found:
        also = ", no speaker on two sides of the split" if split else ""
        return f"{looked}\nnothing found: no recording in two places{also}, no silent clip"
    lines = [looked]
    for heading, these in group_findings(found, split):
        shown = finding_rows(these[:_SHOWN])
        columns = [key for key in shown[0] if key != "kind" and any(row[key] not in (None, []) for row in shown)]
        lines += ["", heading + ":", text_table(shown, columns)]
        if len(these) > _SHOWN:
            lines.append(f"... and {len(these) - _SHOWN:,} more: --format csv gives all")
    return "\n".join(lines)


def _explore(chosen: argparse.Namespace) -> None:
    from ..report.exploration.report import explore

    print(explore(chosen.source, chosen.out, chosen.embed_audio))


def _augment(chosen: argparse.Namespace) -> None:
    from ..report.exploration.augmentations import write_augmentations

    only = [name.strip() for name in chosen.only.split(",")] if chosen.only is not None else None
    for file in write_augmentations(chosen.clip, chosen.out, chosen.seed, only, chosen.noise_dir):
        print(file)
