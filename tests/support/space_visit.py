"""What the browser tests do as a visitor: a Space running by itself, a page of it, and its fields and buttons."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from support import ROOT

WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}
# in seconds; where CI says when the last test may start, see .ci/browser, a test has to end sooner
TIMEOUT = 120 if "BROWSER_TEST_SECONDS" in os.environ else 600
PATIENCE = 0.8 * TIMEOUT


@contextmanager
def run_space(folder: Path, settings: dict[str, str], meanwhile: Callable[[], None] = lambda: None) -> Iterator[str]:
    """A Space with these variables; ``meanwhile`` is done while it starts. It must end without a traceback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {"GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": str(folder / "gradio")}
    with open(folder / "log", "w") as log:
        # another working directory: the Space finds its own files
        server = subprocess.Popen(
            [sys.executable, ROOT / "space" / "app.py"],
            cwd=folder,
            env={**os.environ, **settings, **own},
            stdout=log,
            stderr=log,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        meanwhile()
        wait_until_served(address, server, folder / "log")
        yield address
    finally:
        server.terminate()
        try:
            server.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            server.kill()
    assert "Traceback" not in (folder / "log").read_text()


def wait_until_served(address: str, server: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(address, timeout=PATIENCE).close()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"the Space does not answer after {TIMEOUT} s: {log.read_text()}")


@contextmanager
def visit(browser, address: str, width: str = "desktop", expected: tuple[str, ...] = ()):
    """A visitor's page of his own; no errors in the console but ``expected`` ones, and no request to elsewhere."""
    size = WIDTHS[width]
    context = browser.new_context(viewport={"width": size[0], "height": size[1]})
    page = context.new_page()
    page.set_default_timeout(1000 * PATIENCE)
    wrong = []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: wrong.append(request.url) if is_elsewhere(request.url, address) else None)
    page.goto(address)
    wait_until_ready(page)
    try:
        yield page
        unexpected = [text for text in wrong if not any(known in text for known in expected)]
        assert not unexpected, unexpected
    finally:
        context.close()


def wait_until_ready(page) -> None:
    """The button can be pressed once the page listens and has taken back what it kept."""
    page.wait_for_selector("#generate:not([disabled])")
    wait_until_still(page)


def wait_until_still(page) -> None:
    """Until nothing on the page changes any more: a field that is still being drawn forgets what is typed into it."""
    page.evaluate(
        """() => new Promise(still => {
            const done = () => { watch.disconnect(); still(); };
            let timer = setTimeout(done, 500);
            const watch = new MutationObserver(() => { clearTimeout(timer); timer = setTimeout(done, 500); });
            watch.observe(document, {subtree: true, childList: true, attributes: true});
        })"""
    )


def is_elsewhere(url: str, address: str) -> bool:
    # an address may name a view
    return not url.startswith((address.partition("?")[0], "data:", "blob:"))


def open_tab(page, name: str, elem_id: str) -> None:
    page.get_by_role("tab", name=name).click()
    page.wait_for_selector(f"#{elem_id}")
    wait_until_still(page)


def set_number(page, elem_id: str, value: float) -> None:
    page.fill(f"#{elem_id} input[type=number]", str(value))
    page.keyboard.press("Tab")


def choose(page, elem_id: str, text: str) -> None:
    """Type into a list and take the first match, by keyboard alone."""
    page.click(f"#{elem_id} input")
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type(text)
    # until the list is filtered, the first match is another one
    page.wait_for_function("text => document.querySelector('ul[role=listbox] li')?.innerText.includes(text)", arg=text)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_selector("ul[role=listbox]", state="detached")
    assert text in page.input_value(f"#{elem_id} input")


def open_settings(page) -> None:
    """Unfold what most visitors leave alone."""
    if not page.is_visible("#steps"):
        page.click("#more button")
        page.wait_for_selector("#steps input[type=number]")
        wait_until_still(page)


def generate(page, *, samples: int = 2, steps: int = 2, wait: bool = True) -> None:
    open_settings(page)
    set_number(page, "samples", samples)
    set_number(page, "steps", steps)
    page.click("#generate")
    if wait:
        num_images = samples * page.eval_on_selector_all(
            "#variant input", "all => all.filter(one => one.checked).length"
        )
        images = f"{num_images} image{'' if num_images == 1 else 's'}"
        wait_for(page, "status", f"{images} of {page.input_value('#class input')}")
        wait_for(page, "status", "Click one for details")
        shown = "([ids, count]) => ids.reduce((sum, id) => sum + (%s)(id), 0) === count"
        count = "id => document.querySelectorAll(`#${id} img`).length"
        page.wait_for_function(shown % count, arg=[["gallery-base", "gallery-tuned"], num_images])


def wait_for(page, elem_id: str, text: str) -> None:
    """Wait until the text is in the element; a failure says what was there instead."""
    from playwright.sync_api import TimeoutError as TookTooLong

    shown = "([id, text]) => document.getElementById(id)?.innerText.includes(text)"
    try:
        page.wait_for_function(shown, arg=[elem_id, text])
    except TookTooLong:
        there = page.evaluate("id => document.getElementById(id)?.innerText", elem_id)
        raise AssertionError(f"#{elem_id} shows {there!r}, not {text!r}") from None


def sources(page, elem_id: str) -> list[str]:
    return page.eval_on_selector_all(f"#{elem_id} img", "images => images.map(image => image.src)")


def fits(page) -> bool:
    """Whether nothing is wider than the window."""
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
