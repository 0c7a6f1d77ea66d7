"""The built pages as Chromium shows them, on a desk and on a phone, opened as files."""

from __future__ import annotations

import json

import pytest

from tests.book_files import ROOT, toc_pages
from tests.meta.test_figures import smallest

WIDTHS = {"desktop": 1400, "phone": 390}
LOCAL = ("file:", "data:", "blob:", "about:", "chrome:")
TYPESET = """
const done = arguments[0];
const promise = window.MathJax ? MathJax.startup.promise : Promise.resolve();
promise.then(() => done(true), error => done(String(error)));
"""
AXE = (ROOT / "tests" / "book" / "vendor" / "axe.min.js").read_text(encoding="utf-8")
FINDINGS = """
const done = arguments[1];
const still = document.createElement("style");  // colours on their way to dark are no finding
still.textContent = "*, ::before, ::after {transition: none !important}";
document.head.append(still);
document.documentElement.dataset.mode = document.documentElement.dataset.theme = arguments[0];
axe.run(document, {resultTypes: ["violations"]}).then(found => done(found.violations
  .filter(rule => ["serious", "critical"].includes(rule.impact))
  .map(rule => rule.id + ": " + rule.nodes.map(node => node.target.join(" ")).join(", "))));
"""
OVERFLOW = """
const width = document.documentElement.clientWidth;
return document.documentElement.scrollWidth > width ? Array.from(
    document.querySelectorAll('article *'))
  .filter(e => e.getBoundingClientRect().right > width + 1 && !e.closest('.cell_output'))
  .slice(0, 5).map(e => e.tagName + '.' + e.className) .concat('page') : [];
"""
# A figure's own width stands in its attributes, 100 px an inch: how small did it become?
SMALL_TEXT = """
return [...document.querySelectorAll("article img")].filter(image => !image.closest(".hero"))
  .map(image => [image, parseFloat(image.style.width || image.getAttribute("width"))])
  .filter(([image, own]) => own && image.clientWidth)
  .map(([image, own]) => {
    const padding = parseFloat(getComputedStyle(image).paddingLeft);
    return [image.alt.slice(0, 40), arguments[0] * (image.clientWidth - 2 * padding) / own];
  }).filter(([alt, pixels]) => pixels < 9);
"""
CSS_DPI = 100
# On a phone a table of three columns and more is stacked, and no wider than the text.
WIDE_TABLES = """
return [...document.querySelectorAll("article table.stacks")]
  .filter(table => table.scrollWidth > table.clientWidth + 1)
  .map(table => table.textContent.slice(0, 40));
"""
LONG_LINES = """
return [...document.querySelectorAll("article .cell_output pre")]
  .filter(text => text.scrollWidth > text.clientWidth + 1)
  .map(text => text.textContent.slice(0, 40));
"""
# Every slider of the page, to its other end and back: those whose picture or words stand still.
STILL = """
const moved = (knob, value) => {
  knob.value = value;
  knob.dispatchEvent(new Event("input", {bubbles: true}));
};
return [...document.querySelectorAll(".frames")].flatMap(figure => {
  const image = figure.querySelector("img");
  return [...figure.querySelectorAll("input")].filter(knob => {
    const start = knob.value;
    const state = () => [image.src, image.alt, knob.getAttribute("aria-valuetext")];
    const before = state();
    moved(knob, start === knob.max ? knob.min : knob.max);
    const changed = state().every((part, k) => part !== before[k]);
    moved(knob, start);
    return !changed || state().some((part, k) => part !== before[k]);
  }).map(knob => knob.parentNode.textContent);
});
"""


@pytest.fixture(params=WIDTHS)
def width(request):
    return WIDTHS[request.param]


@pytest.fixture(params=toc_pages())
def opened(request, site, browser, width):
    """One page, opened at one width, its mathematics set; the logs hold this page only."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get((site / f"{request.param}.html").as_uri())
    assert browser.execute_async_script(TYPESET) is True
    return browser


def requests(browser):
    """The addresses that the page asked for."""
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            yield message["params"]["request"]["url"]


def test_the_page_is_whole(opened, width):
    """One test, so that each page is opened once a width: the browser is the slow part."""
    outside = [address for address in requests(opened) if not address.startswith(LOCAL)]
    assert outside == []
    errors = [entry["message"] for entry in opened.get_log("browser") if entry["level"] == "SEVERE"]
    assert errors == []
    # MathJax shows a macro that it does not know in red, and calls that no error.
    kinds = [".math", ".math mjx-container", "mjx-merror, mjx-mtext[style*='red']"]
    count = "return arguments[0].map(kind => document.querySelectorAll(kind).length)"
    formulas, typeset, failed = opened.execute_script(count, kinds)
    assert typeset >= formulas
    assert failed == 0
    assert opened.execute_script(OVERFLOW) == []
    # What is drawn can be read, what was printed stays in the column.
    assert opened.execute_script(SMALL_TEXT, smallest() / 72 * CSS_DPI) == []
    assert opened.execute_script(LONG_LINES) == []
    height = opened.execute_script("return document.documentElement.scrollHeight")
    assert height < 10_000 or "/api/" not in opened.current_url
    if width == WIDTHS["phone"]:
        assert opened.execute_script(WIDE_TABLES) == []
    assert opened.execute_script(STILL) == []
    # Nobody is kept out: neither in light nor in dark.
    opened.execute_script(AXE)
    for mode in ("light", "dark"):
        assert opened.execute_async_script(FINDINGS, mode) == [], mode
