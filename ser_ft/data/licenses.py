"""What the terms of corpora say of what is made from them: a model's license, and what may be published at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..utils.errors import InputError
from .corpora import CORPORA

CorpusInfo = Mapping[str, Mapping[str, Any]]

OWN_LICENSE = "Apache-2.0"
"""The license of what ser_ft makes itself: synthetic voices."""
_HUB = {"CC-BY-NC-SA-4.0": "cc-by-nc-sa-4.0", "ODbL-1.0": "odbl", OWN_LICENSE: "apache-2.0"}
_SHARED = ("ODbL-1.0", OWN_LICENSE)


@dataclass(frozen=True)
class License:
    """A license as the Hub's metadata has it: its identifier, and its own name where that is "other"."""

    id: str
    name: str | None = None


def model_license(facts: CorpusInfo) -> License:
    """Return the license of a model that heard corpora: theirs where they agree, "other" where they do not.

    Args:
        facts: corpus -> license, as `ser_ft.data.prepare.corpus_info` and a run's metrics.json give it.
    """
    said = {corpus: str(fact["license"]) for corpus, fact in facts.items() if fact["license"] != OWN_LICENSE}
    if not said:
        return License(_HUB[OWN_LICENSE]) if facts else License("other", "unknown")
    if len(set(said.values())) == 1 and (alone := _HUB.get(next(iter(said.values())))):
        return License(alone)
    names = {license.lower() if license in _HUB else _unnamed(corpus) for corpus, license in said.items()}
    return License("other", "-and-".join(sorted(names)))


def check_accepted(facts: CorpusInfo, accepted: bool) -> None:
    """Refuse to publish a model that heard TESS or SAVEE, unless their terms were accepted.

    Raises:
        InputError: it did, and they were not.
    """
    asking = [corpus for corpus, fact in facts.items() if corpus in CORPORA and fact["license"] not in _HUB]
    if asking and not accepted:
        terms = "; ".join(f"{corpus}: {facts[corpus]['terms']}" for corpus in asking)
        raise InputError(
            f"a model that heard {' and '.join(asking)} is under terms that may not let it be published ({terms}): "
            "read them, and give --accept-terms (in a recipe, hub.accept_terms: true) where they do"
        )


def check_shared(facts: CorpusInfo, accepted: bool) -> None:
    """Refuse to publish recordings whose terms do not let them be passed on in another form.

    Args:
        facts: as above. accepted: whether the terms of data of one's own, which ser_ft cannot know, were accepted.

    Raises:
        InputError: there are such recordings.
    """
    for corpus, fact in facts.items():
        if fact["license"] in _SHARED:
            continue
        if corpus in CORPORA:
            raise InputError(
                f"{corpus}: its recordings are not published from here ({fact['terms']}): others get it from its "
                f"own place, {CORPORA[corpus].get.split(' ')[0]}; --dataset-card publishes the card alone"
            )
        if not accepted:
            raise InputError(
                f"{corpus}: ser_ft does not know the terms of your own recordings: give --accept-terms where you may "
                "publish them, and all who speak agree; --dataset-card publishes the card alone"
            )


def _unnamed(corpus: str) -> str:
    return f"terms-of-{corpus}" if corpus in CORPORA else "terms-of-its-data"
