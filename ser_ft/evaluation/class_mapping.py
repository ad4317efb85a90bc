"""Which classes of a model correspond to which classes of a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..labels import canonical_name
from ..utils.errors import InputError
from ..utils.text import fold


@dataclass(frozen=True)
class ClassMapping:
    """The classes that a model and a data set share.

    `classes` have their names in the data, in the data's order. `indices`, shape (model classes,), is the index in
    `classes` of each of the model's classes, -1 if the data have no such class.
    """

    classes: tuple[str, ...]
    model_classes: tuple[str, ...]
    indices: np.ndarray

    @classmethod
    def match(
        cls, model_classes: Sequence[str], data_classes: Sequence[str], overrides: Mapping[str, str]
    ) -> ClassMapping:
        """Match a model's classes to the data's: by name, by synonym, or as specified.

        `overrides` maps a class of the model to a class of the data, for names that do not match by themselves.

        Raises:
            InputError: fewer than two classes are shared, or `overrides` names a class that does not exist.
        """
        matches = [_find_class(data_classes, name) for name in model_classes]
        for source, target in overrides.items():
            model_index, data_index = _find_class(model_classes, source), _find_class(data_classes, target)
            if model_index is None or data_index is None:
                owner, classes, missing = (
                    ("model has", model_classes, source) if model_index is None else ("data have", data_classes, target)
                )
                raise InputError(
                    f"--map {source}={target}: the {owner} no class {missing}; the classes are {', '.join(classes)}"
                )
            matches[model_index] = data_index
        shared = sorted({index for index in matches if index is not None})
        if len(shared) < 2:
            raise InputError(
                f"the model's classes are {', '.join(model_classes)}, and the data's are {', '.join(data_classes)}: at "
                "least two must be shared; match classes of different names with --map MODEL_CLASS=DATA_CLASS,..."
            )
        indices = np.array([-1 if index is None else shared.index(index) for index in matches])
        return cls(tuple(data_classes[index] for index in shared), tuple(model_classes), indices)

    def as_dict(self) -> dict[str, str | None]:
        """Return the model's class -> the data's class, None if the data have no such class."""
        names = [self.classes[index] if index >= 0 else None for index in self.indices.tolist()]
        return dict(zip(self.model_classes, names, strict=True))

    def allowed_model_classes(self, allowed: np.ndarray) -> np.ndarray:
        """Convert allowed `classes` of clips, bool, shape (clips, classes), to shape (clips, model classes)."""
        return np.asarray(allowed[:, self.indices] & (self.indices >= 0))

    def merge_probabilities(self, probabilities: np.ndarray) -> np.ndarray:
        """Add the probabilities of model classes that correspond to one class: shape (clips, classes)."""
        return np.asarray(probabilities @ (self.indices[:, None] == np.arange(len(self.classes))))


def _find_class(classes: Sequence[str], name: str) -> int | None:
    """Return the index of a class: of the same name in any case, otherwise of a synonym."""
    names = [fold(other) for other in classes]
    if fold(name) in names:
        return names.index(fold(name))
    emotion = canonical_name(name)
    emotions = [canonical_name(other) for other in classes]
    return emotions.index(emotion) if emotion is not None and emotion in emotions else None
