"""An exponential mean of the weights over the steps of training (Tarvainen & Valpola 2017, "Mean teachers")."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class EMA:
    """Follows a model's weights, and takes their place for a while.

    Args:
        model: not wrapped. names: in its state, of what training changes. decay: the mean's own share in each step; in
            the first steps less, so that it does not begin with weights that have learned nothing.
    """

    def __init__(self, model: torch.nn.Module, names: set[str], decay: float) -> None:
        self.model, self.decay, self.step = model, decay, 0
        self.values = {
            name: value.detach().clone()
            for name, value in model.state_dict().items()
            if name in names and value.is_floating_point()
        }

    @torch.no_grad()
    def update(self) -> None:
        """Take a step's weights in."""
        self.step += 1
        share = 1 - min(self.decay, (1 + self.step) / (10 + self.step))
        state = self.model.state_dict()
        for name, value in self.values.items():
            value.lerp_(state[name].to(value), share)

    @contextmanager
    def used(self) -> Iterator[None]:
        """Let the model have the mean's weights."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        state = self.model.state_dict()
        for name, value in self.values.items():
            kept = state[name].clone()
            state[name].copy_(value)
            value.copy_(kept)

    def state_dict(self) -> dict[str, object]:
        """Return what a checkpoint holds of it."""
        return {"step": self.step, "values": self.values}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Go on from a checkpoint."""
        self.step = int(state["step"])  # type: ignore[call-overload]
        for name, value in state["values"].items():  # type: ignore[attr-defined]
            self.values[name].copy_(value)
