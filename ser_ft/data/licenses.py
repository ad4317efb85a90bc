"""Licenses of models and data sets, as they follow from the terms of the corpora."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..utils.errors import InputError
from .corpora import CORPORA

# corpus -> license and more, as in `ser_ft.data.prepare.corpus_info` and a run's metrics.json.
CorpusInfo = Mapping[str, Mapping[str, Any]]

OWN_LICENSE = "Apache-2.0"  # of the synthetic voices
_HUB_IDS = {"CC-BY-NC-SA-4.0": "cc-by-nc-sa-4.0", "ODbL-1.0": "odbl", OWN_LICENSE: "apache-2.0"}
_REDISTRIBUTABLE = ("ODbL-1.0", OWN_LICENSE)


@dataclass(frozen=True)
class License:
    """A license in the Hub's metadata: its identifier, and its name if that is "other"."""

    id: str
    name: str | None = None


def model_license(corpora: CorpusInfo) -> License:
    """Return the license of a model: that of its training corpora if they have the same one, otherwise "other"."""
    licenses = {name: str(info["license"]) for name, info in corpora.items() if info["license"] != OWN_LICENSE}
    if not licenses:
        return License(_HUB_IDS[OWN_LICENSE]) if corpora else License("other", "unknown")
    if len(set(licenses.values())) == 1 and (hub_id := _HUB_IDS.get(next(iter(licenses.values())))):
        return License(hub_id)
    names = {
        license.lower() if license in _HUB_IDS else f"terms-of-{name if name in CORPORA else 'its-data'}"
        for name, license in licenses.items()
    }
    return License("other", "-and-".join(sorted(names)))


def check_accepted(corpora: CorpusInfo, accepted: bool) -> None:
    """Refuse to publish a model trained on TESS or SAVEE unless their terms were accepted."""
    restricted = [name for name, info in corpora.items() if name in CORPORA and info["license"] not in _HUB_IDS]
    if restricted and not accepted:
        terms = "; ".join(f"{name}: {corpora[name]['terms']}" for name in restricted)
        raise InputError(
            f"the model was trained on {' and '.join(restricted)}, whose terms may not allow publishing it ({terms}): "
            "read them, and pass --accept-terms (in a recipe, hub.accept_terms: true) if they do"
        )


def check_shared(corpora: CorpusInfo, accepted: bool) -> None:
    """Refuse to publish recordings whose terms do not allow it, or the user's own unless the user `accepted` theirs."""
    for name, info in corpora.items():
        if info["license"] in _REDISTRIBUTABLE:
            continue
        if name in CORPORA:
            raise InputError(
                f"{name}: its recordings cannot be published by ser_ft ({info['terms']}): they are available at "
                f"{CORPORA[name].source.split(' ')[0]}; --dataset-card publishes the card alone"
            )
        if not accepted:
            raise InputError(
                f"{name}: ser_ft does not know the terms of your own recordings: pass --accept-terms if you may "
                "publish them and all speakers agree; --dataset-card publishes the card alone"
            )
