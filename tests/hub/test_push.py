"""A run on the Hub: sent in one commit, and loaded back by its name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from server import Hub

from ser_ft.cli import main
from ser_ft.results.runs import RunFolder

MakeRun = Callable[[str], RunFolder]


def test_one_commit_holds_it(hub: Hub, make_run: MakeRun) -> None:
    run = make_run("mfcc-cnn")
    assert main(["push", str(run.path), "someone/mine"]) == 0
    print(hub.requests)
    assert len(hub.model("someone/mine").commits) == 2
