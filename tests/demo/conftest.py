"""The page, served in this process, and a browser. Tests are skipped if gradio, selenium or chromium is missing."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

sys.path.insert(0, str(Path(__file__).parents[2] / "demo"))

from ser_ft.cli.demo import Options
from ser_ft.models import SHIPPED, resolve_model_path
from tests.helpers.chromium import Page, open_browser


@pytest.fixture(scope="session")
def demo() -> Any:
    """The package of the page, with all its modules."""
    pytest.importorskip("gradio", reason='the page needs gradio: pip install "gradio>=6.31,<7"')
    import ser_ft_demo.server

    return ser_ft_demo


@pytest.fixture(scope="session")
def served(demo: Any) -> Iterator[SimpleNamespace]:
    """The served page with two models: its address, its state, and gradio's object."""
    state, pages, build = demo.server.make_state(Options(compare=(resolve_model_path(SHIPPED),))), [], demo.server.build
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo.server, "build", lambda state: pages.append(build(state)) or pages[0])
        address, stop = demo.server.start(state, Options(allow_host=("elsewhere.test",)))
    yield SimpleNamespace(address=address, state=state, page=pages[0])
    stop()


@pytest.fixture(scope="session")
def recordings(demo: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """angry.wav and .mp3, broken.wav, silent.wav, conversation.flac (two channels), long.flac (ten minutes of it)."""
    folder = tmp_path_factory.mktemp("recordings")
    shutil.move(dict(demo.examples.write_clips(folder))["angry, synthetic man"], folder / "angry.wav")
    shutil.move(demo.examples.write_conversation(folder), folder / "conversation.flac")
    samples, rate = soundfile.read(folder / "angry.wav", dtype="float32")
    soundfile.write(folder / "angry.mp3", samples, rate)
    soundfile.write(folder / "silent.wav", np.zeros(rate), rate)
    soundfile.write(folder / "microphone.wav", np.tile(samples, 3), rate)
    for name in ("broken.wav", "notes.txt"):
        (folder / name).write_text("This is no sound.")
    samples, rate = soundfile.read(folder / "conversation.flac", dtype="int16")
    soundfile.write(folder / "long.flac", np.resize(samples, (600 * rate, 2)), rate)
    return folder


@pytest.fixture(scope="session")
def browser(recordings: Path) -> Iterator[Any]:
    """A headless Chromium whose microphone plays a recording."""
    pytest.importorskip("selenium", reason="the tests of the page in a browser need selenium: pip install selenium")
    programs = shutil.which("chromium"), shutil.which("chromedriver")
    if not all(programs):
        pytest.skip("the tests in a browser need chromium and chromedriver (Debian: chromium, chromium-driver)")
    driver = open_browser(*programs, recordings / "microphone.wav", os.geteuid() == 0)
    yield driver
    driver.quit()


@pytest.fixture
def page(served: SimpleNamespace, browser: Any) -> Iterator[Page]:
    """The page, newly loaded; the test fails if it requests anything from other servers."""
    page = Page(browser, served.address)
    yield page
    outside = [url for url in page.requests() if not url.startswith((served.address, "data:", "blob:"))]
    assert not outside, f"the page requested {outside}"
