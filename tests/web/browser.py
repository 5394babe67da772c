"""A headless Chromium, and people who use the page in it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import Any

import pytest

PATIENCE_S = 60
"""For a slow machine that does other work; nothing here takes that long by itself."""


def open_chromium() -> Any:
    """A driver of the distribution's Chromium; skips the test where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver")
    binary = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no chromium and chromedriver here (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    # Containers have neither a sandbox's privileges nor a large /dev/shm.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


class Person:
    """Somebody with the page open in a window of their own."""

    def __init__(self, driver: Any, address: str) -> None:
        self._driver = driver
        driver.switch_to.new_window("window")
        self._window = driver.current_window_handle
        driver.get(address)
        self.wait(lambda: self.all("#draw-button"), "the page")

    def look(self) -> Any:
        """The driver, in this person's window."""
        if self._driver.current_window_handle != self._window:
            self._driver.switch_to.window(self._window)
        return self._driver

    def leave(self) -> None:
        self.look().close()
        self._driver.switch_to.window(self._driver.window_handles[0])

    def run(self, script: str, *arguments: Any) -> Any:
        return self.look().execute_script(script, *arguments)

    def all(self, selector: str) -> list[Any]:
        return self.look().find_elements("css selector", selector)

    def text(self, selector: str) -> str:
        return self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector)

    def count(self, selector: str) -> int:
        return self.run("return document.querySelectorAll(arguments[0]).length", selector)

    def click(self, selector: str) -> None:
        self.run("document.querySelector(arguments[0]).click()", selector)

    def fill(self, selector: str, value: str) -> None:
        """Type over a field, as far as the page can tell."""
        self.run(
            "const field = document.querySelector(arguments[0]); field.value = arguments[1];"
            "for (const kind of ['input', 'change', 'blur'])"
            "  field.dispatchEvent(new Event(kind, {bubbles: true}))",
            selector,
            value,
        )

    def choose(self, dropdown: str, name: str) -> None:
        """Open a dropdown and take the option that starts with a name."""
        (field,) = self.all(f"{dropdown} input")
        self.run("arguments[0].scrollIntoView({block: 'center'})", field)
        field.click()
        option = f"[role=option][aria-label^='{name}']"
        self.wait(lambda: self.all(option), f"the option {name}")[0].click()

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            result = condition()
            if result:
                return result
            time.sleep(0.05)
        pytest.fail(f"waited in vain for {what}; the page says {self.text('body')[:2000]!r}")

    def wait_for(self, words: str, selector: str = "#draw-status") -> str:
        self.wait(lambda: words in self.text(selector), f"{words!r} in {selector}")
        return self.text(selector)

    def draw(self, prompts: str, seed: int = 1) -> None:
        """Ask for a drawing; does not wait for it."""
        self.fill("#prompts textarea", prompts)
        self.fill("#seed input", str(seed))
        # So that what is waited for is never the end of an earlier drawing.
        self.run("document.querySelector('#draw-status .hart-status').textContent = ''")
        self.click("#draw-button")
