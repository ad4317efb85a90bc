"""The last layer of a classifier."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def fold_temperature(model: Any, temperature: float) -> None:
    """Divide a classifier's logits by a temperature, for good, in the weights and bias of its last linear layer.

    Whoever loads the model then gets calibrated probabilities, with stock transformers too.

    Args:
        model: whose head is called `classifier`, a linear layer or modules of which the last linear one gives the
            logits. temperature: above 0.
    """
    last: nn.Linear = [module for module in model.classifier.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.div_(temperature)
