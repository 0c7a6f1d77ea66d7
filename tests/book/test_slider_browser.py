"""The static slider in a real browser: it moves, it speaks, and nothing leaves the page."""

import os
import shutil

import numpy as np
import pytest

from helpers.sliders import FrameGrid, FrameSlider

SWITCHES = (
    "--headless=new --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        message = "chromium and chromedriver are not installed: no slider was moved"
        if os.environ.get("HELPERS_REQUIRE_BROWSER") == "1":
            pytest.fail(message)
        pytest.skip(message)
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for switch in (*SWITCHES, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    session = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield session
    session.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """One page with two figures: one slider with a play button, and a 2 x 3 grid."""

    def stripes(period, level=1.0):
        x = np.arange(720)
        return np.tile((x // period % 2) * level, (240, 1))

    one = FrameSlider(
        stripes,
        [5, 10, 20, 40],
        label="period",
        unit="px",
        default=10,
        alt=lambda p: f"stripes of {p} px",
        caption="Stripes.",
        animate=True,
        static=True,
    )
    parameters = {"period": [10, 20], "level": [0.2, 0.5, 1.0]}
    two = FrameGrid(stripes, parameters, alt=lambda p, v: f"{p} at {v}", static=True)
    path = tmp_path_factory.mktemp("page") / "page.html"
    head = (
        '<!doctype html><meta charset="utf-8"><title>sliders</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
    )
    path.write_text(f"{head}<main>{one._repr_html_()}{two._repr_html_()}</main>", "utf-8")
    return path.as_uri()


@pytest.fixture
def opened(browser, page):
    browser.get_log("performance")
    browser.get(page)
    yield browser
    assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []


def find(browser, selector):
    from selenium.webdriver.common.by import By

    return browser.find_elements(By.CSS_SELECTOR, selector)


def test_keyboard_moves_the_frame_the_readout_and_the_alt(opened):
    from selenium.webdriver.common.keys import Keys

    knob, image, value = (find(opened, f".frames {s}")[0] for s in ("input", "img", ".value"))
    first = image.get_attribute("src")
    assert (value.text, image.get_attribute("alt")) == ("10 px", "stripes of 10 px")
    knob.send_keys(Keys.ARROW_RIGHT)
    assert (value.text, image.get_attribute("alt")) == ("20 px", "stripes of 20 px")
    assert knob.get_attribute("aria-valuetext") == "20 px"
    assert image.get_attribute("src") != first
    knob.send_keys(Keys.END)
    assert value.text == "40 px"
    knob.send_keys(Keys.HOME, Keys.ARROW_RIGHT)
    assert image.get_attribute("src") == first


def test_two_sliders_reach_every_frame(opened):
    image = find(opened, ".frames img")[1]
    knobs = find(opened, ".frames input")[1:]
    seen = {}
    for i in range(2):
        for j in range(3):
            for knob, index in zip(knobs, (i, j), strict=True):
                opened.execute_script(
                    "arguments[0].value = arguments[1];"
                    "arguments[0].dispatchEvent(new Event('input', {bubbles: true}))",
                    knob,
                    index,
                )
            seen[image.get_attribute("alt")] = image.get_attribute("src")
    assert list(seen) == [f"{p} at {v}" for p in (10, 20) for v in (0.2, 0.5, 1.0)]
    assert len(set(seen.values())) == 6
    alone = find(opened, ".frames .value")[0].text
    assert alone == "10 px", "the other figure on the page stood still"


def test_play_steps_and_stops(opened):
    from selenium.webdriver.support.ui import WebDriverWait

    button, value = find(opened, ".frames button")[0], find(opened, ".frames .value")[0]
    button.click()
    WebDriverWait(opened, 5, 0.05).until(lambda _: value.text == "20 px")
    assert button.text == "Pause"
    button.click()
    assert button.text == "Play"


def test_reduced_motion_takes_the_play_button_away(opened):
    def emulate(value):
        feature = {"name": "prefers-reduced-motion", "value": value}
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    button = find(opened, ".frames button")[0]
    assert button.is_displayed()
    emulate("reduce")
    try:
        assert not button.is_displayed()
    finally:
        emulate("no-preference")


@pytest.mark.parametrize("width", [1400, 390])
def test_it_fits_and_nothing_leaves_the_page(browser, page, width):
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        browser.get_log("performance")
        browser.get(page)
        overflow = "return document.documentElement.scrollWidth - window.innerWidth"
        assert browser.execute_script(overflow) <= 0
        assert all(k.size["height"] >= 44 and k.is_displayed() for k in find(browser, "input"))
        drawn = "return [...document.images].map(i => i.complete && i.naturalWidth)"
        assert browser.execute_script(drawn) == [720, 720]
        log = "".join(entry["message"] for entry in browser.get_log("performance"))
        assert page in log, "the log must see requests at all"
        assert '"url":"http' not in log
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_without_scripts_the_default_frame_stands_alone(browser, page):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(page)
        assert not any(knob.is_displayed() for knob in find(browser, "input"))
        assert find(browser, ".frames img")[0].size["width"] > 300
        assert "Shown at period = 10 px" in find(browser, ".frames")[0].text
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
