"""Exponential moving average (EMA) of the weights over the steps of training (Tarvainen & Valpola 2017)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn


class EMA:
    """The moving average of a model's weights.

    Args:
        model: the model, not wrapped for distributed training.
        names: the entries of its state dict that training changes.
        decay: weight of the average in each update. The first updates use less, so that the average does not start
            with untrained weights.
    """

    def __init__(self, model: torch.nn.Module, names: set[str], decay: float) -> None:
        self.model, self.decay, self.step = model, decay, 0
        state = model.state_dict()
        self.values = {
            name: value.detach().clone() for name, value in state.items() if name in names and value.is_floating_point()
        }

    @torch.no_grad()
    def update(self) -> None:
        """Add the current weights to the average."""
        self.step += 1
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        state = self.model.state_dict()
        current = [state[name].to(value) for name, value in self.values.items()]
        get_ema_multi_avg_fn(decay)(list(self.values.values()), current, self.step)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Use the averaged weights in the model."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        state = self.model.state_dict()
        for name, value in self.values.items():
            current = state[name].clone()
            state[name].copy_(value)
            value.copy_(current)

    def state_dict(self) -> dict[str, object]:
        """Return the content of a checkpoint."""
        return {"step": self.step, "values": self.values}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Restore the average from a checkpoint."""
        self.step = int(state["step"])  # type: ignore[call-overload]
        for name, value in state["values"].items():  # type: ignore[attr-defined]
            self.values[name].copy_(value)
