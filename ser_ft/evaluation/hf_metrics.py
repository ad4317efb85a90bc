"""UAR, accuracy and macro F1 as `evaluate.Metric` classes that work without a network.

`evaluate.load("accuracy")` downloads a script from the Hub. These metrics are instantiated directly, `UAR()`, and can
be combined: `evaluate.combine([UAR(), WeightedAccuracy(), MacroF1()])`. They return the values of
`ser_ft.evaluation.metrics`. They have a module of their own because importing evaluate takes seconds.
"""

from __future__ import annotations

from collections.abc import Iterable

import datasets
import evaluate
import numpy as np

from . import metrics

_INPUTS = """
Args:
    predictions (list of int): predicted class of each clip, numbered from 0.
    references (list of int): true class of each clip, numbered from 0.
Returns:
    {name} (float): {meaning}
"""
_EMOTION_CHALLENGE = """
@inproceedings{schuller2009interspeech,
  title={The {INTERSPEECH} 2009 Emotion Challenge},
  author={Schuller, Bj{\\"o}rn and Steidl, Stefan and Batliner, Anton},
  booktitle={Proc. Interspeech},
  pages={312--315},
  year={2009}
}
"""
_SKLEARN = """
@article{scikit-learn,
  title={Scikit-learn: Machine Learning in {P}ython},
  author={Pedregosa, F. and Varoquaux, G. and Gramfort, A. and Michel, V. and Thirion, B. and others},
  journal={Journal of Machine Learning Research},
  volume={12},
  pages={2825--2830},
  year={2011}
}
"""


class UAR(evaluate.Metric):  # type: ignore[misc]
    """Unweighted average recall, with the name "uar"."""

    def _info(self) -> evaluate.MetricInfo:
        meaning = "the mean recall over the classes that occur in the references, from 0 to 1."
        return _info("uar", "Unweighted average recall (macro recall, balanced accuracy)", meaning, _EMOTION_CHALLENGE)

    def _compute(self, predictions: Iterable[int], references: Iterable[int]) -> dict[str, float]:
        return {"uar": metrics.uar(*_numbers(references, predictions))}


class WeightedAccuracy(evaluate.Metric):  # type: ignore[misc]
    """Accuracy ("weighted accuracy" in speech emotion recognition), with the name "accuracy"."""

    @property
    def name(self) -> str:
        """The metric's name, which would otherwise be "weighted_accuracy", after the class."""
        return "accuracy"

    def _info(self) -> evaluate.MetricInfo:
        meaning = "the fraction of clips whose class is recognized, from 0 to 1."
        return _info("accuracy", "Accuracy (weighted accuracy, WA)", meaning, _SKLEARN)

    def _compute(self, predictions: Iterable[int], references: Iterable[int]) -> dict[str, float]:
        true, predicted, _ = _numbers(references, predictions)
        return {"accuracy": metrics.accuracy(true, predicted)}


class MacroF1(evaluate.Metric):  # type: ignore[misc]
    """Mean F1 over the classes, with the name "macro_f1"."""

    def _info(self) -> evaluate.MetricInfo:
        meaning = "the mean F1 over the classes that occur in the references or the predictions, from 0 to 1."
        return _info("macro_f1", "Macro-averaged F1", meaning, _SKLEARN)

    def _compute(self, predictions: Iterable[int], references: Iterable[int]) -> dict[str, float]:
        return {"macro_f1": metrics.macro_f1(*_numbers(references, predictions))}


def _info(name: str, description: str, meaning: str, citation: str) -> evaluate.MetricInfo:
    number = datasets.Value("int64")
    return evaluate.MetricInfo(
        description=f"{description}: {meaning}",
        citation=citation,
        inputs_description=_INPUTS.format(name=name, meaning=meaning),
        features=datasets.Features({"predictions": number, "references": number}),
        reference_urls=["https://scikit-learn.org/stable/modules/model_evaluation.html#classification-metrics"],
    )


def _numbers(references: Iterable[int], predictions: Iterable[int]) -> tuple[np.ndarray, np.ndarray, int]:
    """Return both as arrays, and the number of classes."""
    true, predicted = (np.fromiter(values, dtype=np.int64) for values in (references, predictions))
    return true, predicted, 1 + int(max(true.max(initial=0), predicted.max(initial=0)))
