"""The model card: a README.md for the Hub, written from the run folder, with an estimate of the training energy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from ...data.corpora import CORPORA
from ...data.licenses import OWN_LICENSE, model_license
from ...data.splits import Leaking
from ...evaluation.provenance import corpora_seen_in_training
from ...evaluation.run_folder import PARTS, RunFolder, explain_read_errors
from ...models import IMAGE_PREFIXES, MODELS, SHIPPED_MODELS
from ...utils.readers import read_json
from ...utils.text import short_note, size_text, time_text
from ..run.figures import selected_evaluation
from ..shared.tables import comparison_rows, describe_sample, evaluated_part, run_notes, split_name, split_notes
from ..shared.templates import front_matter, render_template

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard

_WATTS = {
    **{"H200": 700, "H100": 700, "A100": 400, "V100": 300, "A10G": 150, "L40S": 350, "L40": 300, "L4": 72, "T4": 70},
    **{"RTX 4090": 450, "RTX 3090 Ti": 450, "RTX 3090": 350},
}
"""Board power in W, as the manufacturers state it. The first board whose words are in a device's name is taken."""
_WATTS_PER_CORE = 10
"""Power of a busy CPU core, roughly: thermal design power of a server processor divided by its cores."""
_GRAMS_PER_KWH = 480
"""Carbon dioxide per kilowatt hour, world average of 2023: Ember, Global Electricity Review 2024."""
_TASK = "audio-classification"
_SETTINGS = ("model", "tuning", "augment", "train", "split", "seed")
_CARD_FIGURES = ("confusion", "recall", "reliability", "groups")
_ENVIRONMENT_KEYS = ("device", "processes", "mixed_precision", "seconds", "speed", "commit", "python", "versions")
_ENGLISH_CORPORA = ("ravdess", "tess", "cremad", "savee")

Corpora = Mapping[str, Mapping[str, Any]]


def model_card(run: RunFolder, name: str, config: Mapping[str, Any] | None = None) -> ModelCard:
    """Write the card of a model for the Hub repository `name` ("user/name") from its trained and evaluated run.

    `config` is the configuration to show, without private values, by default the run's.

    Raises:
        InputError: a file of the run is missing or damaged.
    """
    from huggingface_hub import ModelCard

    with explain_read_errors(run):
        metrics = run.metrics
        seen = corpora_seen_in_training(run.model)
        model_config = read_json(run.model / "config.json")
        contents = _contents(run, name, metrics, seen, run.config if config is None else config, model_config)
        metadata = _metadata(run, name, metrics, seen, model_config)
        return ModelCard(front_matter(metadata) + render_template("report/cards/model_card.md.j2", contents))


def results(metrics: Mapping[str, Any], seen: Corpora) -> list[EvalResult]:
    """Return the results for the model-index: UAR, accuracy and macro F1 on unseen speakers, by corpus.

    There are none if the split leaks, or if the audio of a corpus in `seen` (the corpora trained on) is not its own
    (rebuilt or synthetic). Test corpora whose audio is not their own are left out.
    """
    from huggingface_hub import EvalResult

    part, scores = evaluated_part(metrics)
    notes, num_classes = metrics.get("notes") or {}, len(metrics["classes"])
    unknown = "seen" in metrics and metrics["seen"] is None
    if metrics["split"]["leaking"] or part != "test" or unknown or any(facts["note"] for facts in seen.values()):
        return []
    evaluations = []
    for corpus, corpus_scores in scores["by_corpus"].items():
        if notes.get(corpus):
            continue
        interval = corpus_scores.get("uar_interval")
        bounds = {"interval": {key: interval[key] for key in ("low", "high", "level", "method")}} if interval else {}
        for metric, title, value, arguments in (
            ("recall", "UAR (unweighted average recall)", corpus_scores["uar"], {"average": "macro"} | bounds),
            ("accuracy", "accuracy", corpus_scores["accuracy"], {}),
            ("f1", "macro F1", corpus_scores["macro_f1"], {"average": "macro"}),
        ):
            result = EvalResult(
                task_type=_TASK,
                task_name="Speech emotion recognition",
                dataset_type=corpus,
                dataset_name=metrics["terms"][corpus]["title"],
                dataset_split=f"{part}, speakers not seen in training ({split_name(metrics['split'])})",
                dataset_args={key: corpus_scores[key] for key in ("clips", "speakers")} | {"classes": num_classes},
                metric_type=metric,
                metric_name=title,
                metric_value=value,
                metric_args=arguments or None,
            )
            evaluations.append(result)
    return evaluations


def base_model(config: Mapping[str, Any], metrics: Mapping[str, Any]) -> str | None:
    """Return the Hub name of the backbone that a run started from, or None if it is not from the Hub."""
    model = config["model"]
    name = str(model["name"])
    if name in (*MODELS, *SHIPPED_MODELS) or name.startswith("torchvision/") or not model.get("pretrained", True):
        return None
    # metrics.json has the whole name of a model from the Hub, but only the last part of a folder's path.
    is_hub_name = re.fullmatch(r"[\w.-]+/[\w.-]+", name, re.ASCII)
    return name if is_hub_name and str(metrics["model"]).startswith(f"{name} (") else None


def _metadata(
    run: RunFolder, name: str, metrics: Mapping[str, Any], seen: Corpora, model_config: Mapping[str, Any]
) -> dict[str, Any]:
    from huggingface_hub import ModelCardData

    license, base = model_license(seen), base_model(run.config, metrics)
    evaluations, energy = results(metrics, seen), estimate_energy(run.environment)
    data = ModelCardData(
        license=license.id,
        license_name=license.name,
        language="en" if seen and all(corpus in _ENGLISH_CORPORA for corpus in seen) else None,
        library_name="transformers",
        pipeline_tag=_TASK,
        tags=["speech-emotion-recognition", "ser_ft", *(["custom_code"] if "auto_map" in model_config else [])],
        base_model=base,
        base_model_relation="finetune" if base else None,
        metrics=["recall", "accuracy", "f1"],
        model_name=name.rpartition("/")[2] if evaluations else None,
        eval_results=evaluations or None,
        co2_eq_emissions=energy
        and {
            "emissions": float(f"{energy.grams_co2:.3g}"),
            "source": f"estimate: measured time x {energy.watts} W x {_GRAMS_PER_KWH} g/kWh",
            "training_type": "fine-tuning" if base else "from scratch",
            "hardware_used": energy.hardware,
        },
    )
    return dict(data.to_dict())


def _contents(
    run: RunFolder,
    name: str,
    metrics: Mapping[str, Any],
    seen: Corpora,
    config: Mapping[str, Any],
    model_config: Mapping[str, Any],
) -> dict[str, Any]:
    part, scores = evaluated_part(metrics)
    backbone, base = run.config["model"], base_model(run.config, metrics)
    encoder = model_config.get("encoder", model_config)
    environment = dict.fromkeys(_ENVIRONMENT_KEYS) | run.environment
    labels = {int(index): label for index, label in model_config["id2label"].items()}
    split = run.split
    split_parts = {name: content for name, content in split["parts"].items() if name in PARTS}
    speakers = [set(content["speakers"]) for content in split_parts.values()]
    terms, notes = metrics.get("terms") or {}, metrics.get("notes") or {}
    tested = scores["by_corpus"]
    leaking = metrics["split"]["leaking"]
    corpora = {corpus: {**facts, "note": notes.get(corpus, "")} for corpus, facts in terms.items()} | dict(seen)
    seen_notes = {corpus: str(facts["note"]) for corpus, facts in seen.items() if facts["note"]}
    baselines = [baseline for baseline in run.baselines if part in baseline.metrics["parts"]]
    return {
        "name": name,
        "model": metrics["model"],
        "part": part,
        "scores": scores,
        "parts": {name: metrics["parts"][name] for name in PARTS if name in metrics["parts"]},
        "rows": {name: (row, _row_note(name, notes, seen_notes, leaking)) for name, row in tested.items()},
        "sample": describe_sample(metrics),
        "leaking": leaking,
        "disjoint": sum(map(len, speakers)) == len(set().union(*speakers)),
        "notes": run_notes({**metrics, "notes": notes | seen_notes})[bool(leaking) :],
        "split_note": short_note("".join(split_notes(leaking))),
        "labels": [labels[index] for index in sorted(labels)],
        "classes": metrics["classes"],
        "custom_code": "auto_map" in model_config,
        "base": base,
        "from_scratch": backbone["name"] in MODELS or not backbone.get("pretrained", True),
        "shipped": backbone["name"] in SHIPPED_MODELS,
        "corpora": {name: {**facts, "seen": name in seen, "tested": name in tested} for name, facts in corpora.items()},
        "license": model_license(seen),
        "synthetic": bool(seen) and all(facts["license"] == OWN_LICENSE for facts in seen.values()),
        "acted": [corpus for corpus in seen if corpus in CORPORA and seen[corpus]["license"] != OWN_LICENSE],
        "split": split,
        "split_name": split_name(metrics["split"]),
        "split_parts": split_parts,
        "indexed": bool(results(metrics, seen)),
        "comparison": comparison_rows([run, *baselines], part),
        "calibration": metrics.get("calibration"),
        "figures": [kind for kind in _CARD_FIGURES if (run.figures / f"{kind}.png").is_file()],
        "metrics": metrics,
        "size": size_text(metrics["parameters"]),
        "trained": metrics.get("trained_parameters"),
        "settings": yaml.safe_dump({key: config[key] for key in _SETTINGS if key in config}, sort_keys=False).strip(),
        "selected": selected_evaluation(run.history),
        "epochs": run.history[-1]["epoch"] if run.history else None,
        "environment": environment,
        "time": time_text(float(environment["seconds"] or 0)) if environment["seconds"] else None,
        "energy": estimate_energy(environment),
        "grams_per_kwh": _GRAMS_PER_KWH,
        "citations": citations([*seen.values(), *terms.values()], backbone["name"], encoder.get("model_type", "")),
    }


class Energy(NamedTuple):
    """An upper estimate of the energy of a training run, from its time and the highest power of its hardware."""

    watts: int
    hardware: str
    kilowatt_hours: float
    grams_co2: float


def estimate_energy(environment: Mapping[str, Any]) -> Energy | None:
    """Return the energy of a run's training, or None if its time or the power of its device is unknown."""
    seconds, device = environment.get("seconds"), str(environment.get("device", ""))
    processes = int(environment.get("processes", 1))
    if not seconds:
        return None
    if device == "cpu":
        cores = processes * int(environment.get("torch_threads", 1))
        watts, hardware = _WATTS_PER_CORE * cores, f"{cores} CPU core{'s' * (cores > 1)}"
    else:
        board = next((name for name in _WATTS if re.search(rf"\b{name}\b", device)), None)
        if board is None:
            return None
        watts, hardware = _WATTS[board] * processes, f"{processes} x {device}"
    kilowatt_hours = watts * float(seconds) / 3.6e6
    return Energy(watts, hardware, kilowatt_hours, kilowatt_hours * _GRAMS_PER_KWH)


def citations(corpora: list[Mapping[str, Any]], name: str, model_type: str) -> list[str]:
    """Return what to cite: the corpora, and the backbone with this name in the recipe and this model_type."""
    text = resources.files("ser_ft").joinpath("report", "cards", "citations.yaml").read_text(encoding="utf-8")
    known = yaml.safe_load(text)
    by_name = (item["text"] for item in known["names"] if all(word in name.lower() for word in item["words"]))
    cited = [*(facts["citation"] for facts in corpora), next(by_name, None) or known["families"].get(model_type)]
    if name.startswith(IMAGE_PREFIXES[0]):
        cited.append(known["timm"])
    return list(dict.fromkeys(filter(None, cited)))


def _row_note(corpus: str, notes: Mapping[str, str], seen_notes: Mapping[str, str], leaking: Leaking) -> str:
    """Return the short note on a corpus's figures: what is unusual about its audio, or about the training audio."""
    trained_on = ", ".join(dict.fromkeys(map(short_note, seen_notes.values())))
    note = short_note(notes.get(corpus) or "") or (f"trained on {trained_on}" if trained_on else "")
    return "; ".join(filter(None, [*map(short_note, split_notes(leaking)), note]))
