"""The Space in a real browser: what a visitor does, at two widths. `make browser` runs this; see browser_shots/."""

import json
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import ROOT
from support.space_visit import (
    PATIENCE,
    TIMEOUT,
    WIDTHS,
    choose,
    fits,
    generate,
    open_settings,
    open_tab,
    run_space,
    set_number,
    sources,
    visit,
    wait_for,
    wait_until_ready,
)

SHOTS = ROOT / "browser_shots"
NAMES = ("chromium", "chromium-browser", "google-chrome")
HOSTILE = "<svg onload=alert(1)>"
# in seconds; CI says when the last test may start, see .ci/browser
LAST_START = float(os.environ.get("BROWSER_TEST_SECONDS", "inf"))
STARTED = time.monotonic()
pytestmark = [pytest.mark.browser, pytest.mark.timeout(TIMEOUT, func_only=True)]


@pytest.fixture(autouse=True)
def in_time() -> None:
    """Leaves out what cannot end in time, as on a machine that has much else to do; the summary names it."""
    if time.monotonic() - STARTED > LAST_START:
        pytest.skip(f"not started within {LAST_START:.0f} s (BROWSER_TEST_SECONDS)")


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    """A Space of the mini model, with a class list of a thousand and a small dataset, running by itself."""
    folder = tmp_path_factory.mktemp("space")
    names = ["star", "circle", HOSTILE, *(f"thing {number}" for number in range(997))]
    (folder / "classes.json").write_text(json.dumps(names))
    # before the Space starts: a folder is offered only if it is there
    (folder / "shapes").mkdir()
    settings = {
        "UBGEN_CLASSES": str(folder / "classes.json"),
        "UBGEN_DATASETS": str(folder / "shapes"),
        "UBGEN_MAX_STEPS": "12",
    }
    with run_space(folder, settings, lambda: draw_dataset(folder / "shapes")) as address:
        yield address


def draw_dataset(folder: Path) -> None:
    from ubgen_pipeline import generate_dataset

    annotated = {"annotations": ["mask", "box"]}
    generate_dataset(["star", HOSTILE, "ring"], folder, samples_per_class=9, num_inference_steps=2, **annotated)


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    names = (os.environ.get("BROWSER_PROGRAM", ""), *NAMES)
    program = next((found for name in names if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium is installed")
    SHOTS.mkdir(exist_ok=True)
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"], timeout=1000 * PATIENCE)
        yield chromium
        chromium.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_generate_and_look_at_one(browser, address, width):
    with visit(browser, address, width) as page:
        generate(page, samples=2, steps=6)
        assert len(sources(page, "gallery-base")) == len(sources(page, "gallery-tuned")) == 2
        page.click("#gallery-tuned button >> nth=1")
        wait_for(page, "generate-facts", "seed")
        facts = page.inner_text("#generate-facts")
        assert re.search(r"seed\s+\d{5,}", facts) and re.search(r"prompt\s+star", facts)
        command = page.input_value("#generate-command textarea")
        assert command.startswith("ubgen generate --model mini --lora") and "--samples-per-class 2" in command
        page.wait_for_selector("#generate-picture img")
        before = sources(page, "generate-picture")
        page.click("#generate-layers label >> nth=0")
        page.wait_for_function(
            "before => document.querySelector('#generate-picture img')?.src !== before", arg=before[0]
        )
        assert fits(page)
        page.screenshot(path=SHOTS / f"generate_{width}.png", full_page=True)


def test_switch_the_class_by_typing_among_a_thousand(browser, address):
    with visit(browser, address) as page:
        choose(page, "class", "thing 771")
        page.get_by_label("Tuned", exact=True).uncheck()
        generate(page)
        assert "2 images of thing 771" in page.inner_text("#status")
        assert not page.is_visible("#gallery-tuned")
        choose(page, "class", "onload")
        generate(page)
        assert HOSTILE in page.inner_text("#status")
        page.click("#gallery-base button >> nth=0")
        wait_for(page, "generate-facts", HOSTILE)


def test_the_keyboard_alone_is_enough(browser, address):
    with visit(browser, address) as page:
        press = page.keyboard.press
        outlined = "getComputedStyle(document.activeElement.closest('label') ?? document.activeElement).outlineStyle"
        focused = "document.activeElement.closest('[id]:not(input)')?.id"
        page.focus("#class input")
        # what stands in the field is replaced
        press("ControlOrMeta+a")
        page.keyboard.type("circle")
        page.wait_for_function("document.querySelector('ul[role=listbox] li')?.innerText.includes('circle')")
        press("ArrowDown")
        press("Enter")
        page.wait_for_selector("ul[role=listbox]", state="detached")
        assert page.input_value("#class input") == "circle"
        # no mouse: from the list through the models to the button, each of which shows that it has the focus
        for _ in range(8):
            press("Tab")
            assert page.evaluate(outlined) == "solid"
            if page.evaluate(focused) == "generate":
                break
        assert page.evaluate(focused) == "generate"
        press("Shift+Tab")
        press("Space")
        assert not page.is_checked("#variant input >> nth=1") and page.evaluate(outlined) == "solid"
        press("Tab")
        press("Enter")
        wait_for(page, "status", "4 images of circle")
        page.focus("#gallery-base button >> nth=0")
        press("Enter")
        wait_for(page, "generate-facts", "seed")
        page.wait_for_function("document.querySelector('#generate-picture img')?.alt.includes('circle')")
        assert page.get_attribute("#generate-command textarea", "aria-label")


def test_images_with_and_without_annotations_follow_each_other(browser, address):
    with visit(browser, address) as page:
        page.get_by_label("Tuned", exact=True).uncheck()
        open_settings(page)
        for wanted, seed in ((True, 1), (False, 2), (True, 3)):
            page.get_by_label("Mask and boxes").set_checked(wanted)
            set_number(page, "seed", seed)
            generate(page, samples=2, steps=2)
            facts = []
            for number in (0, 1):
                page.click(f"#gallery-base button >> nth={number}")
                page.wait_for_function(
                    "before => ![...before, ''].includes(document.getElementById('generate-facts')?.innerText ?? '')",
                    arg=facts,
                )
                facts.append(page.inner_text("#generate-facts"))
            # the second image's own, and its layers where it has any
            assert facts[0] != facts[1] and page.is_visible("#generate-layers") == wanted
            assert page.get_by_label("Mask", exact=True).is_checked() if wanted else "No annotations" in facts[1]


def test_the_page_opens_with_images_and_an_address_brings_a_view_back(browser, address):
    with visit(browser, address, "phone") as page:
        page.wait_for_selector("#gallery-tuned img >> nth=3")
        # class, model and the button come first, and images are in view
        tops = [page.locator(name).bounding_box()["y"] for name in ("#class", "#variant", "#generate", "#samples")]
        assert tops == sorted(tops) and not page.is_visible("#seed")
        assert page.locator("#gallery-base img >> nth=0").bounding_box()["y"] < WIDTHS["phone"][1] - 100
        assert page.locator("#gallery-base img >> nth=0").bounding_box()["width"] > 100
        assert "star, seed 0" in page.inner_text("#shown")
        open_settings(page)
        set_number(page, "seed", 11)
        choose(page, "class", "circle")
        assert "other settings" in page.evaluate(
            "getComputedStyle(document.querySelector('.ub-shown'), '::after').content"
        )
        generate(page, samples=1, steps=3)
        link, drawn = page.url, sources(page, "gallery-base")
        assert "class=circle" in link and "seed=11" in link
    with visit(browser, link) as page:
        # drawn lately, so there at once
        wait_for(page, "shown", "circle, seed 11, 3 steps")
        page.wait_for_selector("#gallery-base img")
        assert page.input_value("#class input") == "circle"
        assert [source.rsplit("/", 2)[-2:] for source in sources(page, "gallery-base")] == [
            source.rsplit("/", 2)[-2:] for source in drawn
        ]
    with visit(browser, f"{address}/?class=circle&seed=12&steps=2&samples=1") as page:
        wait_for(page, "status", "press Generate for its images")
        page.click("#generate")
        wait_for(page, "shown", "circle, seed 12, 2 steps")
    with visit(browser, f"{address}/?class=%3Csvg+onload%3Dalert(2)%3E&seed=-1") as page:
        wait_for(page, "status", "The address asks for what is not offered here: Class: choose one from the list.")


def test_a_program_draws_through_the_named_endpoint(address):
    from gradio_client import Client

    client = Client(address, verbose=False)
    images, facts = client.predict("star", ["tuned"], 2, 3, 2, 2.0, True, api_name="/draw")
    assert len(images) == 2 and Path(images[0]["image"]).read_bytes()[:4] == b"\x89PNG"
    assert [fact["prompt"] for fact in facts] == ["star", "star"] and all(len(fact["boxes"][0]) == 4 for fact in facts)
    # what is left out is as on the page
    assert len(client.predict(num_inference_steps=1, api_name="/draw")[1]) == 2
    for wrong in ({"samples": 9}, {"class_name": "<b>"}, {"models": ["other"]}, {"seed": -1}):
        with pytest.raises(Exception, match=r"choose|give a whole number"):
            client.predict(**wrong, api_name="/draw")


def test_cancel_and_go_on(browser, address):
    with visit(browser, address) as page:
        generate(page, samples=8, steps=12, wait=False)
        page.wait_for_selector("#stop:not([disabled])")
        page.click("#stop")
        wait_for(page, "status", "Stopped after")
        page.wait_for_selector("#generate:not([disabled])")
        drawn = len(sources(page, "gallery-base"))
        assert drawn < 8
        generate(page, samples=1, steps=1)
        # none of the stopped request's came after it
        assert len(sources(page, "gallery-base")) == len(sources(page, "gallery-tuned")) == 1


def test_a_reload_keeps_the_settings_and_the_view(browser, address):
    # the page that is left closes its connections, of which Gradio's own code may still complain
    left = ("AbortError: signal is aborted", "Connection errored out")
    with visit(browser, address, expected=left) as page:
        choose(page, "class", "circle")
        generate(page, samples=3, steps=2)
        page.reload()
        wait_until_ready(page)
        page.wait_for_function("document.querySelector('#samples input[type=number]').value === '3'")
        page.wait_for_function("document.querySelector('#class input').value === 'circle'")
        # the address names the view
        wait_for(page, "shown", "circle")
        page.wait_for_selector("#gallery-base img >> nth=2")
        generate(page, samples=1, steps=1)


def test_numbers_out_of_range_are_brought_back_or_refused(browser, address):
    with visit(browser, address) as page:
        open_settings(page)
        for elem_id, value, kept in [("samples", 999, 8), ("samples", 0, 1), ("steps", -3, 1), ("guidance", 99, 20)]:
            set_number(page, elem_id, value)
            field = f"document.querySelector('#{elem_id} input[type=number]')"
            page.wait_for_function(f"{field}.value === '{kept}'")
        for value in ("-1", "1.5", "1e300", ""):
            set_number(page, "seed", 3)
            generate(page, samples=1, steps=1)
            drawn = sources(page, "gallery-base")
            set_number(page, "seed", value)
            page.click("#generate")
            wait_for(page, "status", "Seed: give a whole number from 0 to 9007199254740991.")
            page.wait_for_selector("#generate:not([disabled])")
            assert sources(page, "gallery-base") == drawn
        page.click("#gallery-base button >> nth=0")
        wait_for(page, "generate-facts", "seed")
        open_tab(page, "Bias", "measure")
        set_number(page, "bias-seed", -1)
        page.click("#measure")
        wait_for(page, "bias-status", "Seed: give a whole number from 0")


def test_two_visitors_at_once(browser, address):
    with visit(browser, address) as first, visit(browser, address, "phone") as second:
        choose(second, "class", "circle")
        generate(first, samples=3, steps=4, wait=False)
        generate(second, samples=2, steps=3, wait=False)
        wait_for(first, "status", "Click one for details")
        wait_for(second, "status", "Click one for details")
        assert "6 images of star" in first.inner_text("#status")
        assert "4 images of circle" in second.inner_text("#status")
        assert not set(sources(first, "gallery-base")) & set(sources(second, "gallery-base"))
        for page, name in ((first, "star"), (second, "circle")):
            page.click("#gallery-base button >> nth=0")
            wait_for(page, "generate-facts", f"{name}")


def test_a_waiting_request_can_be_taken_back(browser, address):
    with visit(browser, address) as first, visit(browser, address) as second:
        choose(second, "class", "circle")
        generate(first, samples=8, steps=12, wait=False)
        first.wait_for_selector("#stop:not([disabled])")
        wait_for(first, "status", "Drawing star")
        generate(second, samples=2, steps=2, wait=False)
        wait_for(second, "status", "Waiting for the model: 1 request is ahead of yours.")
        second.wait_for_selector("#generate[disabled]")
        shown = "[...document.querySelectorAll('#status, #status *')].filter(part => part.innerText?.trim())"
        opacity = f"{shown}.map(part => getComputedStyle(part).opacity)"
        assert set(second.evaluate(opacity)) == {"1"}
        second.click("#stop")
        wait_for(second, "status", "Stopped before it began.")
        second.wait_for_selector("#generate:not([disabled])")
        second.click("#generate")
        wait_for(second, "status", "Waiting for the model")
        first.click("#stop")
        wait_for(second, "status", "4 images of circle")
        second.wait_for_selector("#generate:not([disabled])")
        wait_for(first, "status", "Stopped after")


def test_a_full_line_stops_nothing_but_the_model(browser, tmp_path):
    draw_dataset(tmp_path / "shapes")
    with (
        run_space(tmp_path, {"UBGEN_MAX_QUEUE": "1", "UBGEN_DATASETS": str(tmp_path / "shapes")}) as address,
        visit(browser, address) as first,
        # what the page says when it is left while it draws
        visit(browser, address, expected=("AbortError", "Connection errored out")) as second,
        visit(browser, address) as third,
    ):
        third.wait_for_selector("#gallery-base img >> nth=3")
        generate(first, samples=8, steps=50, wait=False)
        wait_for(first, "status", "Drawing circle")
        # two clicks take one place
        open_settings(second)
        set_number(second, "samples", 1)
        set_number(second, "steps", 1)
        second.dblclick("#generate")
        wait_for(second, "status", "Waiting for the model")
        generate(third, samples=1, steps=1, wait=False)
        wait_for(third, "status", "Too many requests wait")
        # who is turned away still looks at images and datasets
        third.click("#gallery-base button >> nth=0")
        wait_for(third, "generate-facts", "seed")
        open_tab(third, "Browse a dataset", "open")
        wait_for(third, "browse-status", "27 rows, 3 classes. Page 1 of 2.")
        third.click("#browse-gallery button >> nth=2")
        wait_for(third, "browse-facts", "2 (ring)")
        wait_for(second, "status", "Waiting for the model")
        first.click("#stop")
        wait_for(first, "status", "of 16 images.")
        wait_for(second, "status", "2 images of circle")
        # a visitor who leaves gives the place up
        generate(second, samples=8, steps=49, wait=False)
        wait_for(second, "status", "Drawing circle")
        second.goto("about:blank")
        third.get_by_role("tab", name="Generate").click()
        generate(third, samples=1, steps=1)


@pytest.mark.parametrize("width", WIDTHS)
def test_browse_a_dataset(browser, address, width):
    with visit(browser, address, width) as page:
        open_tab(page, "Browse a dataset", "open")
        # it opens by itself
        wait_for(page, "browse-status", "27 rows, 3 classes. Page 1 of 2.")
        wait_for(page, "histogram", "objects.score: ")
        page.click("#open")
        wait_for(page, "browse-status", "27 rows, 3 classes. Page 1 of 2.")
        page.wait_for_selector("#browse-gallery img >> nth=23")
        assert HOSTILE in page.inner_text("#counts") and page.inner_text("#counts").count("9") >= 3
        choose(page, "browse-class", "ring")
        wait_for(page, "browse-status", "Page 1 of 1.")
        page.wait_for_function("document.querySelectorAll('#browse-gallery img').length === 9")
        wait_for(page, "histogram", "objects.score of ring: ")
        choose(page, "browse-column", "prompt")
        wait_for(page, "histogram", "prompt of ring: 9 values")
        choose(page, "browse-column", "number of objects")
        wait_for(page, "histogram", "number of objects of ring: 9 values")
        page.click("#browse-gallery button >> nth=2")
        wait_for(page, "browse-facts", "2 (ring)")
        assert page.input_value("#browse-command textarea") == "ubgen regenerate shapes --index 8"
        assert fits(page)
        page.screenshot(path=SHOTS / f"browse_{width}.png", full_page=True)


def test_folders_are_not_browsed(browser, address):
    with visit(browser, address) as page:
        open_tab(page, "Browse a dataset", "open")
        page.fill("#dataset input", "/etc")
        page.keyboard.press("Tab")
        page.click("#open")
        wait_for(page, "browse-status", "choose one from the list")


@pytest.mark.parametrize("width", WIDTHS)
def test_bias_is_measured_and_can_be_stopped(browser, address, width):
    with visit(browser, address, width) as page:
        open_tab(page, "Bias", "measure")
        set_number(page, "bias-samples", 1)
        page.click("#measure")
        wait_for(page, "bias-charts", "Own background")
        if width == "phone":
            page.click("#bias-stop")
            wait_for(page, "bias-status", "Stopped")
            page.click("#measure")
            wait_for(page, "bias-status", "Measuring")
            page.click("#bias-stop")
            wait_for(page, "bias-status", "Stopped")
        else:
            wait_for(page, "bias-status", "Measured: 20 of 20")
        assert "of 10" in page.inner_text("#bias-charts") or width == "phone"
        assert fits(page)
        page.screenshot(path=SHOTS / f"bias_{width}.png", full_page=True)


def test_the_server_takes_and_serves_no_files_and_has_one_endpoint(browser, address):
    def status(path: str, body: bytes | None = None) -> int:
        request = urllib.request.Request(address + path, body, {"content-type": "application/json"})
        try:
            return urllib.request.urlopen(request, timeout=PATIENCE).status
        except urllib.error.HTTPError as error:
            return error.code

    for file in ("/etc/passwd", str(ROOT / "space" / "app.py"), str(ROOT / "README.md")):
        assert status(f"/gradio_api/file={file}") in (403, 404)
    info = json.load(urllib.request.urlopen(f"{address}/gradio_api/info", timeout=20))
    assert list(info["named_endpoints"]) == ["/draw"] and not info["unnamed_endpoints"]
    assert status("/gradio_api/upload", b"x") == 403
    config = json.load(urllib.request.urlopen(f"{address}/config", timeout=PATIENCE))
    private = [part["id"] for part in config["dependencies"] if part["api_visibility"] == "private"]
    for number in private:
        body = json.dumps({"fn_index": number, "data": [], "session_hash": "x"}).encode()
        assert status("/gradio_api/queue/join", body) == status("/gradio_api/run/predict", body) == 403
    assert len(private) > 10
