"""The book as one PDF: bookmarks, links that stay in it, sliders that say where they stand."""

from __future__ import annotations

import pytest
from pypdf import PdfReader

from book import pdf

PARTS = [
    (None, [("book/index", 0)]),
    ("Fused electron microscopy", [("book/fusion/index", 0), ("book/fusion/05_tune", 1)]),
]

TUNE = "Tune the weights by hand, then by a rule"


@pytest.fixture(scope="module")
def printed(site, browser, tmp_path_factory):
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    pages = {
        name: pdf.printed(browser, site / f"{name}.html") for _, names in PARTS for name, _ in names
    }
    path = tmp_path_factory.mktemp("pdf") / "book.pdf"
    pdf.join(PARTS, pages, site).write(path)
    return PdfReader(path)


def outline(reader, entries, depth=0):
    for entry in entries:
        if isinstance(entry, list):
            yield from outline(reader, entry, depth + 1)
        else:
            yield depth, entry.title, reader.get_destination_page_number(entry)


def test_bookmarks_are_parts_pages_and_headings(printed):
    found = list(outline(printed, printed.outline))
    titles = {title: (depth, page) for depth, title, page in found}
    assert [title for depth, title, _ in found if depth == 0][1:] == ["Fused electron microscopy"]
    part, index, page, heading = (
        titles[title]
        for title in (
            "Fused electron microscopy",
            "Fuse electron microscopy",
            TUNE,
            "Check yourself",
        )
    )
    assert (part[0], index[0], page[0], heading[0]) == (0, 1, 2, 3)
    assert 0 < part[1] == index[1] < page[1] < heading[1]
    assert "Check yourself" in printed.pages[heading[1]].extract_text()


def test_links_between_pages_stay_in_the_file(printed):
    links = [
        reference.get_object() for page in printed.pages for reference in page.get("/Annots", ())
    ]
    outside = [str(link["/A"]["/URI"]) for link in links if "/URI" in link.get("/A", {})]
    assert [address for address in outside if not address.startswith(("http", "mailto"))] == []
    starts = dict(entry[1:] for entry in outline(printed, printed.outline))
    part, page = starts["Fuse electron microscopy"], starts[TUNE]
    from_part = {
        printed.get_page_number(reference.get_object()["/Dest"][0].get_object())
        for n in range(part, page)
        for reference in printed.pages[n].get("/Annots", ())
        if "/Dest" in reference.get_object()
    }
    assert page in from_part


def test_a_slider_stands_still_and_says_where(printed):
    start = dict(entry[1:] for entry in outline(printed, printed.outline))
    page = start["Move the sliders"]
    text = " ".join(
        " ".join(printed.pages[n].extract_text().split()) for n in range(page, page + 2)
    )
    assert "Shown at lambda_chem = " in text and "the page on the site has the slider" in text
    assert "need JavaScript" not in text


def test_the_whole_table_of_contents_is_printed():
    toc = {"root": "a", "parts": [{"caption": "P", "chapters": [{"file": "b"}]}]}
    assert list(pdf.chapters(toc)) == [(None, [("a", 0)]), ("P", [("b", 0)])]


def test_a_site_that_is_not_there_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        pdf.main([str(tmp_path), str(tmp_path / "book.pdf")])
    assert "run `make book` first" in capsys.readouterr().err
