"""The model card: a README.md for the Hub that fills itself from the run folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from typing import TYPE_CHECKING, Any

import yaml

from ...data.corpora import CORPORA
from ...data.licenses import OWN_LICENSE, model_license
from ...evaluation.provenance import corpora_seen_in_training
from ...evaluation.run_folder import PARTS, RunFolder, explain_read_errors
from ...models import IMAGE_PREFIXES, MODELS, SHIPPED
from ...utils.text import short_note, size_text, time_text
from ..run.figures import selected_evaluation
from ..shared.tables import LEAKING, comparison_rows, describe_sample, evaluated_part, run_notes, split_name
from ..shared.templates import front_matter, render_template
from .energy import GRAMS_A_KWH, energy

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard

_TASK = "audio-classification"
_SETTINGS = ("model", "tuning", "augment", "train", "split", "seed")
_CARD_FIGURES = ("confusion", "recall", "reliability", "groups")
# What an older run's environment.json may lack.
_ENVIRONMENT = ("device", "processes", "mixed_precision", "seconds", "speed", "commit", "python", "versions")
_ENGLISH = ("ravdess", "tess", "cremad", "savee")


def model_card(run: RunFolder, name: str, config: Mapping[str, Any] | None = None) -> ModelCard:
    """Write a model's card from its run.

    Args:
        run: trained and evaluated. name: of the repository on the Hub, "user/name".
        config: the run's configuration as it is to be shown, less what is not for others; by default as it is.

    Raises:
        InputError: a file of the run is missing or damaged.
    """
    from huggingface_hub import ModelCard

    with explain_read_errors(run):
        metrics = run.metrics
        heard = corpora_seen_in_training(run.model)
        config = run.config if config is None else config
        said = json.loads((run.model / "config.json").read_text(encoding="utf-8"))
        contents = _contents(run, name, metrics, heard, config, said)
        head = _metadata(run, name, metrics, heard, said)
        return ModelCard(front_matter(head) + render_template("report/cards/model_card.md.j2", contents))


def results(metrics: Mapping[str, Any], heard: Mapping[str, Mapping[str, Any]]) -> list[EvalResult]:
    """Return what a model-index may say of a run, corpus by corpus: UAR, accuracy and macro F1 on unheard speakers.

    Empty where the split leaks or the model was made from sound that is not the corpus's own (rebuilt, or synthetic);
    without corpora whose sound is not their own.

    Args:
        metrics: of the run. heard: as `ser_ft.evaluation.provenance.corpora_seen_in_training` gives it.
    """
    from huggingface_hub import EvalResult

    part, scores = evaluated_part(metrics)
    notes = metrics.get("notes") or {}
    unknown = "seen" in metrics and metrics["seen"] is None
    if metrics["split"]["leaking"] or part != "test" or unknown or any(fact["note"] for fact in heard.values()):
        return []
    found = []
    for corpus, own in scores["by_corpus"].items():
        if notes.get(corpus):
            continue
        interval = own.get("uar_interval")
        within = {"clips": own["clips"], "speakers": own["speakers"], "classes": len(metrics["classes"])}
        args = {"average": "macro"}
        bounds = {key: interval[key] for key in ("low", "high", "level", "method")} if interval else None
        for kind, called, value, more in (
            ("recall", "UAR (unweighted average recall)", own["uar"], args | ({"interval": bounds} if bounds else {})),
            ("accuracy", "accuracy", own["accuracy"], {}),
            ("f1", "macro F1", own["macro_f1"], args),
        ):
            found.append(
                EvalResult(
                    task_type=_TASK,
                    task_name="Speech emotion recognition",
                    dataset_type=corpus,
                    dataset_name=metrics["terms"][corpus]["title"],
                    dataset_split=f"{part}, speakers not heard in training ({split_name(metrics['split'])})",
                    dataset_args=within,
                    metric_type=kind,
                    metric_name=called,
                    metric_value=value,
                    metric_args=more or None,
                )
            )
    return found


def base_model(config: Mapping[str, Any], metrics: Mapping[str, Any]) -> str | None:
    """Return the name on the Hub of the backbone that a run began with; None where there is none there."""
    model = config["model"]
    name = str(model["name"])
    if name in (*MODELS, SHIPPED) or name.startswith("torchvision/") or not model.get("pretrained", True):
        return None
    # In metrics.json a folder is called by its last part; a name on the Hub stands whole.
    return name if name.count("/") == 1 and str(metrics["model"]).startswith(f"{name} (") else None


def _metadata(
    run: RunFolder,
    name: str,
    metrics: Mapping[str, Any],
    heard: Mapping[str, Mapping[str, Any]],
    said: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the card's head."""
    from huggingface_hub import ModelCardData

    license, base = model_license(heard), base_model(run.config, metrics)
    found = results(metrics, heard)
    english = all(corpus in _ENGLISH for corpus in heard) and bool(heard)
    took = energy(run.environment)
    data = ModelCardData(
        license=license.id,
        license_name=license.name,
        language="en" if english else None,
        library_name="transformers",
        pipeline_tag=_TASK,
        tags=["speech-emotion-recognition", "ser_ft", *(["custom_code"] if "auto_map" in said else [])],
        base_model=base,
        base_model_relation="finetune" if base else None,
        metrics=["recall", "accuracy", "f1"],
        model_name=name.rpartition("/")[2] if found else None,
        eval_results=found or None,
        co2_eq_emissions=took
        and {
            "emissions": float(f"{took.grams:.3g}"),
            "source": f"estimate: measured time x {took.watts} W x {GRAMS_A_KWH} g/kWh",
            "training_type": "fine-tuning" if base else "from scratch",
            "hardware_used": took.hardware,
        },
    )
    return dict(data.to_dict())


def _contents(
    run: RunFolder,
    name: str,
    metrics: Mapping[str, Any],
    heard: Mapping[str, Mapping[str, Any]],
    config: Mapping[str, Any],
    said: Mapping[str, Any],
) -> dict[str, Any]:
    """Gather what the template shows, all of it from the run's files."""
    part, scores = evaluated_part(metrics)
    environment = dict.fromkeys(_ENVIRONMENT) | run.environment
    labels = {int(number): label for number, label in said["id2label"].items()}
    split = json.loads(run.split_file.read_text(encoding="utf-8"))
    terms = metrics.get("terms") or {}
    notes = metrics.get("notes") or {}
    judged = scores["by_corpus"]
    leaking = bool(metrics["split"]["leaking"])
    everyone = [set(split["parts"][kind]["speakers"]) for kind in PARTS if kind in split["parts"]]
    facts = {**{corpus: {**fact, "note": notes.get(corpus, "")} for corpus, fact in terms.items()}, **heard}
    return {
        "name": name,
        "called": metrics["model"],
        "part": part,
        "scores": scores,
        "parts": {kind: metrics["parts"][kind] for kind in PARTS if kind in metrics["parts"]},
        "rows": {corpus: (own, _mark(corpus, notes, heard, leaking)) for corpus, own in judged.items()},
        "sample": describe_sample(metrics),
        "leaking": leaking,
        "apart": sum(map(len, everyone)) == len(set().union(*everyone)),
        "notes": [note for note in run_notes({**metrics, "notes": notes | _noted(heard)}) if note != LEAKING],
        "labels": [labels[number] for number in sorted(labels)],
        "classes": metrics["classes"],
        "own_code": "auto_map" in said,
        "base": base_model(run.config, metrics),
        "fresh": run.config["model"]["name"] in MODELS or not run.config["model"].get("pretrained", True),
        "shipped": run.config["model"]["name"] == SHIPPED,
        "corpora": {
            corpus: {**fact, "seen": corpus in heard, "tested": corpus in judged} for corpus, fact in facts.items()
        },
        "license": model_license(heard),
        "synthetic": bool(heard) and all(fact["license"] == OWN_LICENSE for fact in heard.values()),
        "acted": [corpus for corpus in heard if corpus in CORPORA and heard[corpus]["license"] != OWN_LICENSE],
        "split": split,
        "split_name": split_name(metrics["split"]),
        "people": {kind: content for kind, content in split["parts"].items() if kind in PARTS},
        "indexed": bool(results(metrics, heard)),
        "comparison": comparison_rows([run, *(y for y in run.baselines if part in y.metrics["parts"])], part),
        "calibration": _calibration(metrics.get("calibration")),
        "figures": [kind for kind in _CARD_FIGURES if (run.figures / f"{kind}.png").is_file()],
        "metrics": metrics,
        "size": size_text(metrics["parameters"]),
        "trained": metrics.get("trained_parameters"),
        "settings": yaml.safe_dump({key: config[key] for key in _SETTINGS if key in config}, sort_keys=False).strip(),
        "epoch": selected_evaluation(run.history),
        "epochs": run.history[-1]["epoch"] if run.history else None,
        "environment": environment,
        "time": time_text(float(environment["seconds"] or 0)) if environment["seconds"] else None,
        "energy": energy(environment),
        "grams_a_kwh": GRAMS_A_KWH,
        "citations": citations(heard, terms, run.config["model"]["name"], said.get("model_type", "")),
    }


def citations(
    heard: Mapping[str, Mapping[str, Any]], judged: Mapping[str, Mapping[str, Any]], name: str, family: str
) -> list[str]:
    """Return what to cite: the corpora that were heard or judged, and the backbone.

    Args:
        heard, judged: corpus -> citation. name: of the backbone, as the recipe has it. family: its `model_type`.
    """
    text = resources.files("ser_ft").joinpath("report", "cards", "citations.yaml").read_text(encoding="utf-8")
    known = yaml.safe_load(text)
    found = [fact["citation"] for fact in (*heard.values(), *judged.values()) if fact["citation"]]
    words = name.lower()
    own = next((item["text"] for item in known["names"] if all(word in words for word in item["words"])), None)
    found.append(own or known["families"].get(family))
    if name.startswith(IMAGE_PREFIXES[0]):
        found.append(known["timm"])
    return list(dict.fromkeys(filter(None, found)))


def _calibration(said: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Fill in what the calibration of an older run lacks."""
    if said is None:
        return None
    lacking = {"uncertain": None, "certain_accuracy": None}
    return {"threshold": None, **said, "parts": {kind: lacking | own for kind, own in said["parts"].items()}}


def _noted(heard: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    return {corpus: str(fact["note"]) for corpus, fact in heard.items() if fact["note"]}


def _mark(corpus: str, notes: Mapping[str, str], heard: Mapping[str, Mapping[str, Any]], leaking: bool) -> str:
    """Name in short what goes beside a corpus's figures: what is said of its sound, or else of what the model heard."""
    own = short_note(notes[corpus]) if notes.get(corpus) else ""
    others = dict.fromkeys(map(short_note, _noted(heard).values()))
    told = own or (f"heard {', '.join(others)}" if others else "")
    return "; ".join(filter(None, ["leaking split" if leaking else "", told]))
