"""Training of a linear head on a frozen encoder: a logistic regression that is fitted to convergence."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch

from ..dataloading.encoder_hooks import PooledHead
from ..evaluation.probe import fit_logistic_regression
from .classification import ClassificationTrainer
from .trainer import TrainableModel

_BATCH = 256


def is_logistic_regression(trainable: TrainableModel) -> bool:
    """Return whether a model is a linear head on the cached states of a frozen encoder."""
    head = trainable.model
    if not isinstance(head, PooledHead) or head.speech_classifier is None:
        return False
    return bool(head.speech_classifier.config.head == "linear")


class LogisticRegressionTrainer(ClassificationTrainer):
    """Fits the head in one step, in all processes alike; validation, checkpoints and history are as in training."""

    def _run_epoch(self, progress: Any) -> None:
        head, rows = cast(PooledHead, self.trainable.model), self.train_rows
        classifier = head.speech_classifier
        assert classifier is not None
        with torch.no_grad():
            batches = [rows[start : start + _BATCH].tolist() for start in range(0, len(rows), _BATCH)]
            source, device = self.trainable.batch_source, self.accelerator.device
            values = torch.cat([head.features(source.collate(batch)["states"].to(device)) for batch in batches]).cpu()
            norm = classifier.norm
            mean, variance = values.mean(dim=0), values.var(dim=0, correction=0)
            cast(torch.Tensor, norm.running_mean).copy_(mean)
            cast(torch.Tensor, norm.running_var).copy_(variance)
            standardized = ((values - mean) / (variance + norm.eps).sqrt()).numpy()
            labels, allowed = self.clips.labels[rows], self.clips.allowed[rows]
            groups = None
            if self.config.balanced:
                groups = np.unique([self.clips.corpora[row] for row in rows], return_inverse=True)[1]
            weights = fit_logistic_regression(standardized, labels, allowed, groups=groups)
            classifier.classifier.weight.copy_(torch.from_numpy(weights[:-1].T))
            classifier.classifier.bias.copy_(torch.from_numpy(weights[-1]))
        self._count(standardized @ weights[:-1] + weights[-1], labels, allowed)
        self.state.step = self.total_steps
        progress.update(self.total_steps)

    def _count(self, logits: np.ndarray, labels: np.ndarray, allowed: np.ndarray) -> None:
        """Add the loss and the correct predictions of the training clips to the totals of the first process."""
        if not self.accelerator.is_main_process:
            return
        log_probabilities = torch.from_numpy(np.where(allowed, logits, -np.inf)).log_softmax(dim=1)
        targets, classes = torch.from_numpy(labels), len(self.clips.classes)
        correct = log_probabilities.argmax(dim=1) == targets
        loss = -log_probabilities[torch.arange(len(labels)), targets].sum()
        self.totals["loss"] += torch.stack((loss, torch.tensor(len(labels)))).to(self.totals["loss"])
        counts = [targets[correct].bincount(minlength=classes), targets.bincount(minlength=classes)]
        self.totals["correct"] += torch.stack(counts).to(self.totals["correct"])
