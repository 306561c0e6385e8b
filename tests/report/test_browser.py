"""The page in Chromium, opened from its file: what it shows, what its controls do, what it asks of
a network, on a screen, a telephone, paper, in the dark, and without JavaScript.
"""

import importlib.util
import shutil

import numpy as np
import pytest

from dptrain.privacy import pld
from dptrain.report import render
from dptrain.report.record import Record, roc_of
from tests.report.test_advice import SWEEP

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.long,
    pytest.mark.whole,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
    pytest.mark.skipif(
        importlib.util.find_spec("playwright") is None, reason="playwright is not installed"
    ),
]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    rng = np.random.default_rng(0)
    fpr = np.sort(rng.random(300))
    rocs = [
        roc_of(
            name,
            {"loss": (fpr, fpr), "lira": (fpr, np.sqrt(fpr))},
            pld.claimed_trade_off(2.0, 1e-5) if "dpsgd" in name else None,
            1000,
        )
        for name in dict.fromkeys(row.setting for row in SWEEP)
    ]
    render.render(folder, Record(name="a <run>", rows=SWEEP, rocs=rocs))
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser, page_file):
    """A function that opens the page, and the complaints and requests that it makes."""
    contexts, complaints, requests = [], [], []

    def opens(**options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(page_file.as_uri())
        if options.get("java_script_enabled", True):
            page.wait_for_selector("body[data-drawn]")
        return page

    yield opens
    for context in contexts:
        context.close()
    assert complaints == []
    assert {url for url in requests if not url.startswith("data:")} == {page_file.as_uri()}


def test_settings_are_toggled_attacks_switched_and_numbers_shown(opened, page_file):
    assert page_file.stat().st_size < 3_000_000
    page = opened(viewport={"width": 1400, "height": 1000})
    assert page.title() == "a <run>: privacy and utility"
    assert page.locator(".chart svg").count() == 4
    marks = page.locator(".chart svg [aria-label*='setting: dropout']")
    assert marks.count() > 0
    box = page.get_by_label("dropout", exact=True)
    box.focus()
    page.keyboard.press("Space")  # by the keyboard alone
    page.wait_for_function(
        "!document.querySelector(\".chart svg [aria-label*='setting: dropout']\")"
    )
    box.check()
    page.wait_for_function(
        "document.querySelector(\".chart svg [aria-label*='setting: dropout']\")"
    )
    lines = "[...document.querySelectorAll('.chart')][2].innerHTML"
    before = page.evaluate(lines)
    page.get_by_label("attack of the ROC").select_option("loss")
    page.wait_for_function(f"(before) => {lines} !== before", arg=before)
    point = page.locator(".chart svg .mark-symbol path").first
    point.hover()
    page.wait_for_selector("#vg-tooltip-element.visible")
    assert "any attack at most" in page.locator("#vg-tooltip-element").inner_text()


def test_everything_stands_in_tables_without_javascript(opened):
    page = opened(java_script_enabled=False)
    assert page.locator("noscript img").count() == 2
    assert page.locator("noscript img").first.is_visible()
    assert not page.locator(".controls").is_visible()
    assert page.locator("table").first.is_visible()
    assert "dpsgd-8" in page.locator("table").first.inner_text()


@pytest.mark.parametrize("width", [400, 1400])
def test_nothing_is_cut_at_the_edge(opened, width):
    page = opened(viewport={"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if width == 1400:
        cut = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth)"
        assert page.evaluate(f"{cut}.length") == 0


def test_it_follows_the_colours_of_the_reader(opened):
    def paper(page):
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    assert paper(opened(color_scheme="light")) == "rgb(255, 255, 255)"
    dark = opened(color_scheme="dark")
    assert paper(dark) == "rgb(22, 24, 29)"
    label = dark.locator(".chart svg .role-axis-label text").first
    assert label.get_attribute("fill") == "#e6e6e6"


def test_it_prints_whole(opened, tmp_path):
    page = opened()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("[...document.querySelectorAll('details')].every(each => each.open)")
    page.emulate_media(media="print")
    assert not page.locator(".controls").is_visible()
    assert page.locator(".chart svg").first.is_visible()
    page.pdf(path=tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
