"""The page in a browser, as visitors use it."""

import base64
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ser_ft.inference.recognizer import EmotionRecognizer
from ser_ft.labels import SCHEMES
from tests.helpers.chromium import TAB, Page

pytestmark = pytest.mark.slow


def test_a_dropped_file_gets_the_same_prediction_as_in_python(page: Page, recordings: Path) -> None:
    page.upload("#speak-recording", recordings / "angry.wav")
    text = page.text_with("#speak-result", "Model: shipped")
    expected = EmotionRecognizer()(recordings / "angry.wav")[0]
    emotion = expected["emotion"]
    assert text.startswith(f"uncertainmost probable: {emotion}" if expected["uncertain"] else emotion)
    assert f"{100 * expected['scores'][emotion]:.0f} %" in text
    assert all(name in text for name in expected["scores"]), "every class has its bar"
    assert page.count("#speak-result svg.wave path") == 1
    assert page.js("return document.querySelector('#speak-result img.spectrogram').naturalWidth") > 100


def test_predictions_are_adapted_to_the_visitor_s_voice_on_request(page: Page, recordings: Path) -> None:
    page.click("#speak-adapt input")
    assert "walked along the river" in page.text_with("#speak-sentences", "Record these sentences")
    page.upload("#speak-recording", recordings / "angry.wav")
    assert "1 recording of your voice so far" in page.text_with("#speak-result", "of your voice")
    page.press("body", "sad, synthetic woman")
    assert "synthetic-sad.wav" in page.text_with("#speak-result", "2 recordings of your voice")


def test_examples_are_marked_as_synthetic(page: Page) -> None:
    assert "synthetic voices" in page.text("body")
    page.press("body", "sad, synthetic woman")
    assert "synthetic-sad.wav" in page.text_with("#speak-result", "Model: ")


def test_the_microphone_works(page: Page) -> None:
    page.press("#speak-recording", "Record audio")
    page.press("#speak-recording", "Record")
    time.sleep(3)
    page.press("#speak-recording", "Stop")
    assert "angry" in page.text_with("#speak-result", "Model: ")


def test_a_webm_file_recorded_by_the_browser_is_read(page: Page, tmp_path: Path) -> None:
    page.driver.set_script_timeout(60)
    content = page.driver.execute_async_script(
        """const done = arguments[0];
        const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
        const recorder = new MediaRecorder(stream, { mimeType: "audio/webm;codecs=opus" });
        const pieces = [];
        recorder.ondataavailable = (event) => pieces.push(event.data);
        recorder.onstop = async () => {
          let text = "";
          for (const byte of new Uint8Array(await new Blob(pieces).arrayBuffer())) text += String.fromCharCode(byte);
          done(btoa(text));
        };
        recorder.start(250);
        setTimeout(() => recorder.stop(), 2000);"""
    )
    (tmp_path / "recorded.webm").write_bytes(base64.b64decode(content))
    page.upload("#speak-recording", tmp_path / "recorded.webm")
    assert "recorded.webm" in page.text_with("#speak-result", "Model: ")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("silent.wav", "silent.wav is silent: check the microphone, or use another recording."),
        ("long.flac", "long.flac is longer than 2 minutes: use the tab Conversation for longer recordings."),
        ("notes.txt", "notes.txt could not be read as sound: use a wav, flac, ogg, opus, webm or mp3 file."),
    ],
)
def test_an_unusable_file_gets_one_plain_sentence(page: Page, recordings: Path, name: str, message: str) -> None:
    page.upload("#speak-recording", recordings / name)
    assert page.text_with("#speak-result [role=alert]", name).strip() == message


def test_live_loses_no_sound_and_stores_none(page: Page, served: SimpleNamespace) -> None:
    page.open("Live")
    page.press("#live", "Start the microphone")
    page.text_with("#live .received", "s received")
    started = time.monotonic()
    seconds_before = float(page.text("#live .received").split()[0])
    page.until(lambda: page.count("#live .rolling path[fill]"), "the chart")
    time.sleep(3)
    seconds, elapsed = float(page.text("#live .received").split()[0]) - seconds_before, time.monotonic() - started
    assert abs(seconds - elapsed) < 2, "all sound is received"
    assert any(name in page.text("#live .headline") for name in SCHEMES["eight"])
    page.press("#live", "Stop the microphone")
    files = [file for file in served.state.temp_dir.rglob("*") if file.is_file()]
    assert not [file for file in files if file.stat().st_mtime > time.time() - 5], "no sound is written to files"


def test_a_conversation_of_ten_minutes_is_analyzed(page: Page, recordings: Path) -> None:
    page.open("Conversation")
    page.upload("#conversation-recording", recordings / "long.flac")
    page.text_with("#conversation-recording", "long.flac")
    names = page.driver.find_element("css selector", "#conversation-names textarea, #conversation-names input")
    names.send_keys("left, right")
    page.click("#conversation-run")
    page.until(lambda: page.count("#conversation-result .timeline") == 2, "the timelines", 120)
    text = page.text("#conversation-result")
    assert "Left talked for" in text
    assert "segments" in text
    assert page.count("#conversation-result tbody tr") > 50
    mark = page.driver.find_element("css selector", "#conversation-result svg.timeline a[href='#highlight-1']")
    page.js("arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true, cancelable: true}))", mark)
    player = "document.querySelector('#conversation-result #highlight-1 audio')"
    page.until(lambda: page.js(f"return {player}.currentTime > 0 && !{player}.paused"), "the highlight's sound")


def test_the_report_can_be_downloaded(page: Page, recordings: Path, served: SimpleNamespace, tmp_path: Path) -> None:
    page.open("Conversation")
    page.upload("#conversation-recording", recordings / "conversation.flac")
    page.text_with("#conversation-recording", ".flac")
    page.click("#conversation-run")
    page.until(lambda: page.count("#conversation-result .timeline") == 2, "the timelines")
    page.driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    for button, name, part in (
        ("#conversation-report", "report.html", "conversation.flac: how it sounded"),
        ("#conversation-numbers", "monitor.json", '"path": "conversation.flac"'),
    ):
        page.until(lambda button=button: page.count(f"{button}:not([disabled])"), button)
        page.click(button)
        page.until((tmp_path / name).is_file, name)
        content = (tmp_path / name).read_text(encoding="utf-8")
        assert part in content
        assert str(served.state.temp_dir) not in content, "the path on the server is private"


def test_models_are_compared_side_by_side(page: Page, recordings: Path) -> None:
    page.open("Compare")
    page.upload("#compare-recording", recordings / "angry.mp3")
    text = page.text_with("#compare-result", "overlap by 100 %")
    assert "Both models predict " in text or "Both models are uncertain" in text
    assert page.count("#compare-result .cards > li") == 2


def test_analysis_shows_augmentations_and_descriptors(page: Page, recordings: Path) -> None:
    page.open("Analysis")
    page.upload("#analysis-recording", recordings / "angry.wav")
    page.until(lambda: page.count("#analysis-augmented .cards > li") == 13, "the augmentations")
    before = page.text("#analysis-augmented")
    page.press("body", "Next seed")
    page.until(lambda: page.text("#analysis-augmented") not in ("", before), "other augmentations")
    page.open("Descriptors over time")
    page.until(lambda: page.count("#analysis-described svg.line path") == 9, "the descriptors")


def test_about_states_responsible_use_and_licenses(page: Page) -> None:
    page.open("About")
    text = page.text_with("body", "Article 5(1)(f)")
    for part in ("expression, not feeling", "not stored", "Apache License 2.0", "CC BY-NC-SA 4.0"):
        assert part in text


@pytest.mark.parametrize("dark", [False, True])
def test_no_tab_is_wider_than_a_phone(browser: Any, served: SimpleNamespace, recordings: Path, dark: bool) -> None:
    page = Page(browser, served.address, width=390, dark=dark)
    page.upload("#speak-recording", recordings / "angry.wav")
    page.text_with("#speak-result", "Model: ")
    for name in ("Live", "Conversation", "Compare", "Analysis", "About", "Speak"):
        page.open(name)
        assert page.js("return document.documentElement.scrollWidth") <= 390, f"{name} is wider than a phone"
    red = "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]"
    assert (page.js(red) < 80) is dark


def test_the_keyboard_reaches_all_controls(page: Page) -> None:
    body = page.driver.find_element("css selector", "body")
    script = "return document.activeElement.innerText?.trim() || document.activeElement.ariaLabel || ''"
    focused = set()
    for _ in range(25):
        body.send_keys(TAB)
        focused.add(page.js(script))
    assert {"Speak", "Record audio", "happy, synthetic woman"} <= focused


def test_without_https_the_page_explains_why_there_is_no_microphone(browser: Any, served: SimpleNamespace) -> None:
    note = "Your browser does not let this page use the microphone"
    assert note not in Page(browser, served.address).text("body")
    port = served.address.rstrip("/").rpartition(":")[2]
    page = Page(browser, f"http://elsewhere.test:{port}/")
    assert note in page.text("body")
    page.open("Live")
    page.press("#live", "Start the microphone")
    assert "https" in page.text_with("#live [role=alert]", "microphone")
