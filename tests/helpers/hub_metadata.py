"""What the Hub would not take of a card's head."""

from __future__ import annotations

import re

import yaml


def metadata_errors(card: str) -> list[str]:
    """Say what the Hub would not take of a card's head."""
    match = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    if match is None:
        return ["no metadata"]
    try:
        head = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        return [str(error)]
    errors = []
    if head.get("license") == "other" and not re.fullmatch(r"[a-z0-9.-]+", str(head.get("license_name"))):
        errors.append('"license_name" must be given, in lower case, with "license: other"')
    if head.get("license") not in (None, "other", "apache-2.0", "cc-by-nc-sa-4.0", "odbl"):
        errors.append('"license" is none that the Hub knows')
    for model in head.get("model-index") or []:
        for result in model["results"]:
            if not {"type"} <= result["task"].keys() or not {"type", "name"} <= result["dataset"].keys():
                errors.append('"model-index" lacks a task or a dataset')
            errors += ['"model-index" has a metric without value' for m in result["metrics"] if m.get("value") is None]
    return errors
