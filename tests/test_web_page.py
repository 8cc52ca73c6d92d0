"""The web page in a real browser, fed by real runs: what a visitor sees, and what a stranger cannot do."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import pipelines
from benchmarks.camera import RtspCamera, encode_pattern
from stream_ann.ingest import SourceOptions
from stream_ann.sinks.web import Access, WebView
from stream_ann.weights import read_card
from tests.browser import Browser
from tests.small_weights import save_small_weights
from tests.web_tools import EXITS, FakeRun

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.tool("chromium", "chromedriver")

PICTURE = """
const image = document.querySelector(".picture");
if (!image?.naturalWidth) return null;  // before the page has heard of its sources it has no card
const canvas = document.createElement("canvas");
canvas.width = 32; canvas.height = 18;
const context = canvas.getContext("2d");
context.drawImage(image, 0, 0, 32, 18);
return Array.from(context.getImageData(0, 0, 32, 18).data.filter((_, i) => i % 4 != 3));
"""
VISIBLE = "const banner = document.querySelector('.banner'); return !banner.hidden && banner.textContent"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture
def browser(chromium) -> Iterator[Browser]:
    chromium.cdp("Emulation.setDeviceMetricsOverride", width=1280, height=800, deviceScaleFactor=1, mobile=False)
    yield chromium
    chromium.open("about:blank")  # closes its connections to a server that is about to end


def test_the_demo_moves_its_labels_follow_the_cuts_and_ctrl_c_ends_it(browser):
    command = "import cli; cli.main()"
    arguments = ["live", "demo", "--view", "web", "--web-port", "0", "--device", "cpu", "--threads", "1"]
    process = subprocess.Popen(
        [sys.executable, "-c", command, *arguments], stderr=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ.copy()
    )
    try:
        assert process.stderr is not None
        said = ""
        while (found := re.search(r"web page: (http://127\.0\.0\.1:\d+/)\n", said)) is None:
            line = process.stderr.readline()
            assert line, said
            said += line
        browser.open(found[1])
        labels: list[str] = []
        pictures: set[bytes] = set()
        deepest = 0
        deadline_s = time.monotonic() + 40
        while time.monotonic() < deadline_s and process.poll() is None:
            labels.append(browser.text(".label") if browser.run("return !!document.querySelector('.label')") else "")
            seen = browser.run(PICTURE) if labels[-1] else None
            if seen:
                pictures.add(bytes(seen))
                deepest = max(deepest, browser.run("return document.querySelectorAll('.ladder .reached').length"))
            if len({label for label in labels if label}) >= 2 and len(pictures) > 5:
                break
            time.sleep(0.1)
        assert len({label for label in labels if label}) >= 2, labels
        assert len(pictures) > 5, "the picture does not move"
        assert deepest >= 1
        exits = [step.name for step in read_card("imagenet").steps]
        assert browser.text(".ladder .exit", len(exits) - 1) == exits[-1]
        assert browser.run("return document.querySelectorAll('.ladder li').length") == len(exits)
        begun_s = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        # two seconds on a machine that has nothing else to do
        assert time.monotonic() - begun_s < 6
        browser.until("return document.getElementById('link').dataset.state === 'lost'")
        assert "no connection" in browser.text(".state")
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def small_weights(tmp_path_factory) -> Path:
    """An untrained network of three cheap exits."""
    return save_small_weights(tmp_path_factory.mktemp("weights"))


class Running:
    """A run of a camera that is iterated over in a thread, and its page."""

    def __init__(self, url: str, weights: Path) -> None:
        options = SourceOptions(connect_timeout_s=2.0, read_timeout_s=1.5)
        self.run = pipelines.live(url, weights=weights, device="cpu", source_options=options)
        self.view = WebView(self.run.statuses, self.run.plan.exit_names, access=Access(port=0))
        self.thread = threading.Thread(target=self._iterate, name="test run", daemon=True)

    def _iterate(self) -> None:
        for result in self.run:
            self.view.put(result)

    def __enter__(self) -> Running:
        self.view.__enter__()
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.run.stop()
        self.thread.join(10)
        self.run.close()
        self.view.close()


def test_a_camera_that_is_killed_and_comes_back(browser, small_weights):
    units = encode_pattern(frames=50)
    with RtspCamera(units) as camera:
        port, url = camera.port, camera.url
        running = Running(url, small_weights)
        with running:
            browser.open(running.view.url)
            browser.until("return document.querySelector('.state')?.textContent === 'live'")
            browser.until("return document.querySelector('.card.has-picture') !== null")
            assert browser.run(VISIBLE) is False
            camera.stop()
            text = browser.until(
                "const banner = document.querySelector('.banner');"
                "return /^Reconnecting/.test(banner.textContent) && !banner.hidden && banner.textContent"
            )
            assert re.search(r"The picture is [\d.]+ m?s old\.", text)
            grey = "return getComputedStyle(document.querySelector('.picture')).filter"
            assert "grayscale(1)" in browser.run(grey)
            with RtspCamera(units, port=port):
                browser.until("return document.querySelector('.banner').hidden")
                assert browser.run(grey) == "none"
                before = browser.run(PICTURE)
                browser.until(f"const now = (() => {{{PICTURE}}})(); return now && String(now) !== '{before}'")
                running.run.stop()


@pytest.fixture
def shown():
    """A page of three sources; names of theirs and of exits, labels and reasons try to be markup."""
    evil = "<img src=x onerror='document.title=1;window.broken=1'>"
    run = FakeRun(f"{evil} garage", "front door", "</script><script>window.broken=1</script>")
    with WebView(run.statuses, (f"{evil} small", EXITS[1]), access=Access(port=0)) as view:
        image = np.full((90, 160, 3), 90, np.uint8)
        for name in run.names:
            view.put(
                run.answer(name, label=f"{evil} cat", top=[(f"{evil} cat", 0.6), ("<b>dog</b>", 0.2)], image=image)
            )
        run.now[run.names[0]] = replace(run.now[run.names[0]], carried=0.63)
        run.state("front door", "refused", f"wrong password {evil}", 2)
        yield view


def test_markup_in_names_labels_and_reasons_is_only_text(browser, shown):
    browser.open(shown.url)
    browser.until("return document.querySelectorAll('.card').length === 3")
    browser.until("return document.querySelectorAll('.card.has-picture').length === 3")
    assert browser.text(".label") == "<img src=x onerror='document.title=1;window.broken=1'> cat"
    assert browser.text(".carried") == "63 % from earlier frames"
    assert "onerror" in browser.text(".banner", 1)
    assert browser.run("return document.querySelectorAll('img').length") == 3
    assert browser.run("return document.querySelectorAll('script').length") == 1
    assert browser.run("return window.broken === undefined")


def test_several_are_a_grid_and_on_a_phone_a_column(browser, shown):
    places = "return [...document.querySelectorAll('.card')].map((c) => Math.round(c.getBoundingClientRect().left))"
    overflow = "return document.documentElement.scrollWidth - innerWidth"
    browser.open(shown.url)
    browser.until("return document.querySelectorAll('.card').length === 3")
    assert len(set(browser.run(places))) == 3
    assert browser.run(overflow) <= 0
    browser.cdp("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=2, mobile=True)
    browser.until("return innerWidth === 390")
    assert set(browser.run(places)) == {0}
    assert browser.run(overflow) <= 0


def test_the_newest_picture_is_shown_not_the_one_before(browser):
    """A browser may keep a picture back until it hears of the next one."""
    run = FakeRun("door")
    run.answer("door", image=np.full((90, 160, 3), 90, np.uint8))
    with WebView(run.statuses, EXITS, access=Access(port=0)) as view:
        browser.open(view.url)
        browser.until(f"const seen = (() => {{{PICTURE}}})(); return seen && Math.abs(seen[0] - 90) < 9", timeout_s=10)
        run.answer("door", image=np.full((90, 160, 3), 200, np.uint8))
        browser.until(f"const seen = (() => {{{PICTURE}}})(); return seen && Math.abs(seen[0] - 200) < 9", timeout_s=10)
        browser.open("about:blank")


@pytest.mark.parametrize("phone", [False, True], ids=["desk", "phone"])
def test_an_upright_picture_fits_on_the_screen_and_stretches_no_other_card(browser, phone):
    run = FakeRun("upright", "wide", "as wide")  # of three cards, pictures come one by one
    run.answer("upright", image=np.full((160, 90, 3), 90, np.uint8))
    for name in run.names[1:]:
        run.answer(name, image=np.full((90, 160, 3), 90, np.uint8))
    with WebView(run.statuses, EXITS, access=Access(port=0)) as view:
        if phone:
            browser.cdp("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
        browser.open(view.url)
        browser.until("return document.querySelectorAll('.card.has-picture').length >= 2")
        box = "return [...document.querySelectorAll('.stage')].map((stage) => stage.getBoundingClientRect())"
        size = f"{box}.map((box) => [box.width, box.height])"
        browser.until(f"const [upright] = (() => {{{size}}})(); return upright[1] > 300")  # it has its own shape
        (width, height), (other_width, other_height), _ = browser.run(size)
        assert height <= 0.7 * (844 if phone else 800) + 1
        assert width == pytest.approx(other_width, abs=1), "bars at its sides, not a narrower card"
        assert other_height == pytest.approx(other_width * 9 / 16, abs=1)
        empty = (
            "return [...document.querySelectorAll('.card')].map((card) => card.getBoundingClientRect().bottom - "
            "card.lastElementChild.lastElementChild.getBoundingClientRect().bottom)"
        )
        assert max(browser.run(empty)) < 60
        browser.open("about:blank")


def test_of_many_cards_only_those_on_the_screen_have_their_pictures_fetched(browser):
    run = FakeRun(*(f"camera {i}" for i in range(20)))
    for name in run.names:
        run.answer(name)
    with WebView(run.statuses, EXITS, access=Access(port=0)) as view:
        browser.cdp("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
        browser.open(view.url)
        browser.until("return document.querySelectorAll('.card').length === 20")
        browser.until("return document.querySelectorAll('.card.has-picture').length >= 1")
        numbers = (
            "return performance.getEntriesByType('resource').map((e) => /sources.(\\d+).picture/.exec(e.name))"
            ".filter((found) => found).map((found) => Number(found[1]))"
        )
        for times in (2, 3, 4):
            for name in run.names:
                run.answer(name)
            browser.until(f"const all = (() => {{{numbers}}})(); return all.filter((n) => n === 0).length >= {times}")
        seen = browser.run(numbers)
        assert seen.count(19) <= 1, "at the very beginning nobody knows yet"
        browser.run("performance.clearResourceTimings(); scrollTo(0, document.body.scrollHeight)")
        run.answer("camera 19")
        browser.until(f"const all = (() => {{{numbers}}})(); return all.includes(19)")
        browser.open("about:blank")


def test_nothing_is_loaded_from_elsewhere_and_nothing_is_complained_of(browser, shown):
    browser.open(shown.url)
    browser.until("return document.querySelectorAll('.card.has-picture').length === 3")
    loaded = browser.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert loaded
    assert all(name.startswith(shown.url) for name in loaded)
    # the policy is in force: what is not the page's own is not run
    browser.run(
        "const s = document.createElement('script'); s.textContent = 'window.inline = 1'; document.body.append(s)"
    )
    assert browser.run("return window.inline === undefined")


def test_the_plot_moves(browser, shown):
    browser.open(shown.url)
    browser.until("return document.querySelectorAll('.card').length === 3")
    painted = "return document.querySelector('.plot').toDataURL().length"
    before = browser.run(painted)
    for i in range(30):
        shown.put(FakeRun(next(iter(shown._feed._sources))).answer(reached=1 + i % 2))
    browser.until(f"{painted} > {before} + 200")
