"""The card of a data set: a README.md for the Hub, written from its table or from a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...data.corpora import CORPORA, REASONS
from ...data.licenses import OWN_LICENSE, model_license
from ...evaluation.run_folder import PARTS
from ..shared.templates import front_matter, render_template

if TYPE_CHECKING:
    import pandas as pd

    from ...data.skipped import Skipped

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def data_card(
    name: str,
    clips: pd.DataFrame,
    classes: Sequence[str],
    corpora: Mapping[str, Mapping[str, Any]],
    *,
    sound: bool,
    model: str | None = None,
    skipped: Sequence[Skipped] = (),
) -> str:
    """Write the card of a data set.

    Args:
        name: its repository, "user/name".
        clips: one row per clip: corpus, speaker, duration (s), emotion (the class's name), and part if it is a run's.
        corpora: corpus -> title, license, terms, citation and note.
        sound: whether the recordings are in the repository.
        model: the repository of the model that was made from it, "user/name".
    """
    rows = {corpus: _count(clips[clips["corpus"] == corpus], classes) for corpus in corpora}
    parts = {part: clips[clips["part"] == part] for part in PARTS} if "part" in clips else {}
    license = model_license(corpora)
    known = [corpus for corpus in corpora if corpus in CORPORA]
    head = {
        "license": license.id,
        **({"license_name": license.name} if license.name else {}),
        **({"language": ["en"]} if len(known) == len(corpora) else {}),
        "pretty_name": name.rpartition("/")[2],
        "task_categories": ["audio-classification"],
        "tags": ["speech-emotion-recognition", "ser_ft"],
        "size_categories": [next((label for most, label in _SIZES if len(clips) < most), "1M<n<10M")],
    }
    contents = {
        "name": name,
        "model": model,
        "sound": sound,
        "classes": list(classes),
        "rows": rows,
        "parts": {part: _count(part_clips, ()) for part, part_clips in parts.items() if len(part_clips)},
        "corpora": corpora,
        "notes": any(facts["note"] for facts in corpora.values()),
        "odbl": [corpus for corpus, facts in corpora.items() if facts["license"] == "ODbL-1.0"],
        "synthetic": all(facts["license"] == OWN_LICENSE for facts in corpora.values()),
        "downloadable": [name for name in known if CORPORA[name].downloads and corpora[name]["license"] != OWN_LICENSE],
        "sources": {corpus: CORPORA[corpus].source for corpus in known},
        "skipped": [(REASONS[reason], count) for reason, count in Counter(s.reason for s in skipped).most_common()],
        "citations": list(dict.fromkeys(facts["citation"] for facts in corpora.values() if facts["citation"])),
    }
    return front_matter(head) + render_template("report/cards/data_card.md.j2", contents)


def _count(clips: pd.DataFrame, classes: Sequence[str]) -> dict[str, Any]:
    counts = clips["emotion"].value_counts()
    return {
        "clips": len(clips),
        "speakers": clips["speaker"].nunique(),
        "hours": float(clips["duration"].sum()) / 3600,
        "counts": [int(counts.get(label, 0)) for label in classes],
    }
