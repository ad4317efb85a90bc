"""The page in a browser, as people use it."""

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


def test_a_dropped_file_is_answered_as_the_command_answers_it(page: Page, recordings: Path) -> None:
    page.give("#speak-recording", recordings / "angry.wav")
    said = page.said("#speak-answer", "Judged by shipped")
    answer = EmotionRecognizer()(recordings / "angry.wav")[0]
    assert said.startswith(f"uncertainnearest: {answer['emotion']}" if answer["uncertain"] else answer["emotion"])
    assert f"{100 * answer['scores'][answer['emotion']]:.0f} %" in said
    assert all(name in said for name in answer["scores"]), "every class has its bar"
    assert page.count("#speak-answer svg.wave path") == 1
    assert page.js("return document.querySelector('#speak-answer img.spectrogram').naturalWidth") > 100


def test_examples_say_that_they_are_synthetic(page: Page) -> None:
    assert "synthetic voices" in page.text("#speak-recording ~ *") + page.text("body")
    page.press("body", "sad, synthetic woman")
    assert "synthetic-sad.wav" in page.said("#speak-answer", "Judged by")


def test_the_microphone_is_heard(page: Page) -> None:
    page.press("#speak-recording", "Record audio")
    page.press("#speak-recording", "Record")
    time.sleep(3)
    page.press("#speak-recording", "Stop")
    assert "angry" in page.said("#speak-answer", "Judged by")


def test_what_a_browser_recorded_is_read(page: Page, tmp_path: Path) -> None:
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
        setTimeout(() => recorder.stop(), 3000);"""
    )
    (tmp_path / "recorded.webm").write_bytes(base64.b64decode(content))
    page.give("#speak-recording", tmp_path / "recorded.webm")
    assert "recorded.webm" in page.said("#speak-answer", "Judged by")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("broken.wav", "broken.wav could not be read as sound: give a wav, flac, ogg, opus, webm or mp3 file."),
        ("silent.wav", "silent.wav is silent: check the microphone, or give another recording."),
        ("long.flac", "long.flac is longer than 2 minutes: the tab Call takes longer ones."),
        ("notes.txt", "notes.txt could not be read as sound: give a wav, flac, ogg, opus, webm or mp3 file."),
    ],
)
def test_what_cannot_be_answered_is_one_plain_sentence(page: Page, recordings: Path, name: str, said: str) -> None:
    if name == "notes.txt":
        (recordings / name).write_text("not a recording")
    page.give("#speak-recording", recordings / name)
    assert page.said("#speak-answer [role=alert]", name).strip() == said


def test_live_loses_no_sound_and_answers_while_it_comes(page: Page, served: SimpleNamespace) -> None:
    page.open("Live")
    page.press("#live", "Start the microphone")
    page.said("#live .heard", "s heard")
    begun = time.monotonic()
    first = float(page.text("#live .heard").split()[0])
    page.until(lambda: page.count("#live .rolling path[fill]"), "the chart")
    time.sleep(3)
    heard, passed = float(page.text("#live .heard").split()[0]) - first, time.monotonic() - begun
    assert abs(heard - passed) < 2, "what was spoken is heard, all of it"
    assert any(name in page.text("#live .says") for name in SCHEMES["eight"])
    page.press("#live", "Stop the microphone")
    files = [file for file in served.state.home.rglob("*") if file.is_file() and file.stat().st_mtime > time.time() - 5]
    assert not files, "nothing of it was written down"


def test_a_conversation_of_ten_minutes(page: Page, recordings: Path) -> None:
    page.open("Conversation")
    page.give("#call-recording", recordings / "long.flac")
    page.said("#call-recording", "long.flac")
    page.driver.find_element("css selector", "#call-names textarea, #call-names input").send_keys("agent, customer")
    page.click("#call-go")
    page.until(lambda: page.count("#call-answer .timeline") == 2, "the timelines", 120)
    said = page.text("#call-answer")
    assert "Agent" in said
    assert "segments" in said
    assert page.count("#call-answer tbody tr") > 50
    moments = page.count("#call-answer audio")
    assert moments
    mark = page.driver.find_element("css selector", "#call-answer svg.timeline a[href='#moment-1']")
    page.js("arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true, cancelable: true}))", mark)
    plays = "return document.querySelector('#call-answer #moment-1 audio')"
    page.until(lambda: page.js(f"{plays}.currentTime > 0 && !{plays[7:]}.paused"), "the moment's sound")


def test_the_report_can_be_taken_home(page: Page, recordings: Path, served: SimpleNamespace, tmp_path: Path) -> None:
    page.open("Conversation")
    page.give("#call-recording", recordings / "call.flac")
    page.said("#call-recording", ".flac")
    page.click("#call-go")
    page.until(lambda: page.count("#call-answer .timeline") == 2, "the timelines")
    page.driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    for button, name, part in (
        ("#call-report", "report.html", "call.flac: how it sounded"),
        ("#call-numbers", "monitor.json", '"path": "call.flac"'),
    ):
        page.until(lambda button=button: page.count(f"{button}:not([disabled])"), button)
        page.click(button)
        page.until((tmp_path / name).is_file, name)
        content = (tmp_path / name).read_text(encoding="utf-8")
        assert part in content
        assert str(served.state.home) not in content, "where it lay on the server is nobody's business"


def test_models_side_by_side(page: Page, recordings: Path) -> None:
    page.open("Compare")
    page.give("#compare-recording", recordings / "angry.mp3")
    said = page.said("#compare-answer", "overlap by 100 %")
    assert "Both models say " in said or "Both models are uncertain" in said
    assert page.count("#compare-answer .cards > li") == 2


def test_a_look_inside(page: Page, recordings: Path) -> None:
    page.open("Analysis")
    page.give("#inside-recording", recordings / "angry.wav")
    page.until(lambda: page.count("#inside-augmented .cards > li") == 12, "the augmentations")
    before = page.text("#inside-augmented")
    page.press("body", "Draw others")
    page.until(lambda: page.text("#inside-augmented") not in ("", before), "other draws")
    page.open("Descriptors over time")
    page.until(lambda: page.count("#inside-described svg.line path") == 9, "the descriptors")


def test_about_says_what_it_must(page: Page) -> None:
    page.open("About")
    said = page.said("body", "Article 5(1)(f)")
    for part in ("expression, not feeling", "It is not kept", "Apache License 2.0", "CC BY-NC-SA 4.0"):
        assert part in said


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone(browser: Any, served: SimpleNamespace, recordings: Path, dark: bool) -> None:
    page = Page(browser, served.address, width=390, dark=dark)
    page.give("#speak-recording", recordings / "angry.wav")
    page.said("#speak-answer", "Judged by")
    for name in ("Live", "Call", "Compare", "Inside", "About", "Speak"):
        page.open(name)
        assert page.js("return document.documentElement.scrollWidth") <= 390, f"{name} is wider than a phone"
    shade = "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]"
    assert (page.js(shade) < 80) is dark


def test_the_keyboard_reaches_everything(page: Page) -> None:
    body = page.driver.find_element("css selector", "body")
    reached = set()
    for _ in range(25):
        body.send_keys(TAB)
        said = (
            "const one = document.activeElement; return one.innerText?.trim() || one.getAttribute('aria-label') || ''"
        )
        reached.add(page.js(said))
    assert {"Speak", "Record audio", "happy, synthetic woman"} <= reached


def test_without_https_it_says_why_there_is_no_microphone(browser: Any, served: SimpleNamespace) -> None:
    told = "Your browser gives no microphone to this page"
    assert told not in Page(browser, served.address).text("body")
    port = served.address.rstrip("/").rpartition(":")[2]
    page = Page(browser, f"http://elsewhere.test:{port}/")
    assert told in page.text("body")
    page.open("Live")
    page.press("#live", "Start the microphone")
    assert "https" in page.said("#live [role=alert]", "microphone")
