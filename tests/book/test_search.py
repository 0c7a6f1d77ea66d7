"""The search leads to the page that a reader means."""

from __future__ import annotations

from urllib.parse import quote

import pytest
import yaml
from selenium.webdriver.support.ui import WebDriverWait

from tests.book_files import ROOT, toc_pages

FIRST = "#search-results ul.search > li > a"
QUESTIONS = {
    "how do I install the book": "start/setup",
    "how do I load a dm4 file": "start/your_data/fusion",
    "inverse problem": "start/story",
    "glossary": "start/notation",
    "total variation": "fusion/02_total_variation",
    "FISTA": "fusion/02_total_variation",
    "how to choose lambda": "fusion/05_tune",
    "save tif": "fusion/03_dysco3",
    "core-shell": "fusion/04_core_shell",
    "Fourier light field": "inr/01_light_field",
    "neural field": "inr/03_neural_field",
    "meta-learning": "inr/04_meta_learning",
    "cryo-ET": "inr/06_tomography",
    "ptychography": "inr/07_diffraction",
    "EDVR": "xray/03_edvr",
    "Swin transformer": "xray/04_swin",
    "optical flow": "xray/05_fuse",
    "conformal intervals": "xray/06_reconstruct",
    "self-supervised": "renderer/02_learn_without_labels",
    "Cramer-Rao": "renderer/03_fit_to_the_limit",
    "Cramér": "renderer/03_fit_to_the_limit",
    "phase retrieval": "renderer/04_pupil",
    "single molecule localization": "renderer/05_many_molecules",
    "ADMM": "renderer/06_deconvolve",
    "blind deconvolution": "renderer/06_deconvolve",
    "Noise2Void": "renderer/07_denoise",
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_first_hit_is_the_page_that_is_meant(question, site, browser):
    browser.get(f"{(site / 'search.html').as_uri()}?q={quote(question)}")
    WebDriverWait(browser, 20).until(
        lambda b: b.execute_script(f"return document.querySelector('{FIRST}') !== null")
    )
    first = browser.execute_script(f"return document.querySelector('{FIRST}').href")
    assert first.split("?")[0].split("#")[0].endswith(f"/book/{QUESTIONS[question]}.html")


def test_every_page_has_its_keywords():
    listed = yaml.safe_load((ROOT / "book" / "keywords.yml").read_text(encoding="utf-8"))
    without = {"book/index", "book/references"}
    pages = {p for p in toc_pages() if not (p.startswith("book/api/") or p.endswith("/index"))}
    assert set(listed) == pages - without
