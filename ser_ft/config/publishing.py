"""Where a recipe's run is published."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class HubConfig:
    """Where a finished run is published; the token is the one that `hf auth login` keeps, or HF_TOKEN."""

    model_id: str | None = None
    """The repository, USER/NAME; it is made where there is none."""

    private: bool = False
    """Make the repository private."""

    replace: bool = False
    """Let what the repository holds go; its history keeps it."""

    accept_terms: bool = False
    """The terms of TESS or SAVEE let a model that heard them be published."""
