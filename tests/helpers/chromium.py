"""Chromium, and the page in it as a person sees it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

TAB = "\ue004"
"""The key, as the driver calls it."""

_Found = TypeVar("_Found")


def open_browser(browser: str, driver: str, microphone: Path, root: bool) -> Any:
    """Open a headless Chromium.

    Args:
        browser: its program. driver: likewise, of its driver.
        microphone: the wav file that it hears. root: whether this is root, for whom it has no sandbox.
    """
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
        # A name that is not localhost: for pages from elsewhere without https.
        "--host-resolver-rules=MAP elsewhere.test 127.0.0.1",
        *(["--no-sandbox"] if root else []),
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service(driver))


class Page:
    """The page in a browser."""

    def __init__(self, driver: Any, address: str, width: int = 1200, dark: bool = False) -> None:
        self.driver = driver
        self.address = address
        self.show(width, dark)
        driver.get(address)
        self.until(lambda: self.tabs(), "the tabs")

    def show(self, width: int, dark: bool) -> None:
        """Make the window so many pixels wide, and light or dark."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def until(self, look: Callable[[], _Found], what: str, seconds: float = 60.0) -> _Found:
        """Wait until something is found."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := look():
                return found
            time.sleep(0.1)
        raise AssertionError(f"{what} did not come; the page says: {self.js('return document.body.innerText')[:600]}")

    def js(self, script: str, *given: Any) -> Any:
        return self.driver.execute_script(script, *given)

    def text(self, selector: str) -> str:
        """Return what is read of an element; nothing where there is none."""
        return str(self.js("return document.querySelector(arguments[0])?.innerText ?? ''", selector))

    def count(self, selector: str) -> int:
        return int(self.js("return document.querySelectorAll(arguments[0]).length", selector))

    def said(self, selector: str, part: str, seconds: float = 60.0) -> str:
        """Wait until an element says something, and return all that it says."""
        return self.until(lambda: text if part in (text := self.text(selector)) else "", f"{part!r}", seconds)

    def tabs(self) -> list[Any]:
        return list(self.driver.find_elements("css selector", "button[role=tab]"))

    def open(self, name: str) -> None:
        """Open a tab, which on a narrow screen may be in a menu."""
        for opener in (None, ".overflow-menu > button"):
            if opener:
                self.click(opener)
            for button in self.driver.find_elements("css selector", "button[role=tab], .overflow-dropdown button"):
                if button.is_displayed() and button.text.strip() == name:
                    button.click()
                    return
        raise AssertionError(f"there is no tab {name}")

    def click(self, selector: str) -> None:
        self.driver.find_element("css selector", selector).click()

    def press(self, within: str, name: str) -> None:
        """Press the button of that name in an element."""
        script = "return [...document.querySelectorAll(arguments[0] + ' button')].find((one) => one.offsetParent && "
        script += "[one.innerText.trim(), one.getAttribute('aria-label')].includes(arguments[1]))"
        self.until(lambda: self.js(script, within, name), f"the button {name}").click()

    def give(self, selector: str, file: Path) -> None:
        """Give a file to what asks for one."""
        wanted = f"{selector} input[type=file]"
        self.until(lambda: self.count(wanted), wanted)
        self.driver.find_element("css selector", wanted).send_keys(str(file))

    def requests(self) -> list[str]:
        """Return the addresses that were asked for since the last time."""
        told = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [one["params"]["request"]["url"] for one in told if one["method"] == "Network.requestWillBeSent"]
