"""Chromium, and a page in it as a person sees it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

TAB = "\ue004"
"""The key, as the driver names it."""

_Result = TypeVar("_Result")


def open_browser(browser: str, driver: str, microphone: Path, is_root: bool) -> Any:
    """Open a headless Chromium whose microphone plays a wav file; for root, Chromium has no sandbox."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in (
        "--headless=new",
        "--disable-dev-shm-usage",
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={microphone}",
        "--autoplay-policy=no-user-gesture-required",
        # A host name other than localhost, for pages without https.
        "--host-resolver-rules=MAP elsewhere.test 127.0.0.1",
        *(["--no-sandbox"] if is_root else []),
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service(driver))


def wait_until(condition: Callable[[], _Result], seconds: float = 30.0) -> _Result:
    """Wait until a condition returns something true, or the time is over, and return its result."""
    end = time.monotonic() + seconds
    while not (result := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return result


class Page:
    """A page in the browser."""

    def __init__(self, driver: Any, address: str, width: int = 1200, dark: bool = False) -> None:
        self.driver = driver
        self.resize(width, dark)
        driver.get(address)
        self.until(lambda: driver.find_elements("css selector", "button[role=tab]"), "the tabs")

    def resize(self, width: int, dark: bool) -> None:
        """Set the width of the window in pixels, and light or dark mode."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def until(self, condition: Callable[[], _Result], what: str, seconds: float = 60.0) -> _Result:
        """Wait until a condition returns something true, and return it."""
        if result := wait_until(condition, seconds):
            return result
        text = self.js("return document.body.innerText")[:600]
        raise AssertionError(f"{what} did not appear; the page shows: {text}")

    def js(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def text(self, selector: str) -> str:
        """Return the visible text of an element, or nothing without such an element."""
        return str(self.js("return document.querySelector(arguments[0])?.innerText ?? ''", selector))

    def count(self, selector: str) -> int:
        return int(self.js("return document.querySelectorAll(arguments[0]).length", selector))

    def text_with(self, selector: str, part: str, seconds: float = 60.0) -> str:
        """Wait until the text of an element contains a part, and return the text."""
        return self.until(lambda: text if part in (text := self.text(selector)) else "", f"{part!r}", seconds)

    def open(self, name: str) -> None:
        """Open a tab, which a narrow page may show in a menu."""
        # Found and pressed in one script: the page may replace its buttons in between.
        script = "const tab = [...document.querySelectorAll('button[role=tab], .overflow-dropdown button')].find("
        script += "(button) => button.offsetParent && button.innerText.trim() === arguments[0]); tab?.click();"
        for menu in (None, ".overflow-menu > button"):
            if menu:
                self.click(menu)
            if self.js(f"{script} return Boolean(tab)", name):
                return
        raise AssertionError(f"there is no tab {name}")

    def click(self, selector: str) -> None:
        self.until(lambda: self.count(selector), selector)
        self.driver.find_element("css selector", selector).click()

    def press(self, selector: str, name: str) -> None:
        """Press the button with a name within an element."""
        script = "return [...document.querySelectorAll(arguments[0] + ' button')].find((button) => button.offsetParent "
        script += "&& [button.innerText.trim(), button.getAttribute('aria-label')].includes(arguments[1]))"
        self.until(lambda: self.js(script, selector, name), f"the button {name}").click()

    def upload(self, selector: str, file: Path) -> None:
        """Upload a file to an input within an element."""
        file_input = f"{selector} input[type=file]"
        self.until(lambda: self.count(file_input), file_input)
        self.driver.find_element("css selector", file_input).send_keys(str(file))

    def requests(self) -> list[str]:
        """Return the URLs requested since the last call."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return [parameters["request"]["url"] for parameters in sent]
