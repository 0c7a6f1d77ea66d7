"""Print the built book as one PDF: ``python book/pdf.py [SITE] [FILE]``, or ``make pdf``.

Chromium prints each page of the site, pypdf joins them: a bookmark for each part, page and heading,
and links between pages that stay in the file. A slider stands where it stood at first, and says so.
"""

from __future__ import annotations

import argparse
import base64
import io
import shutil
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml
from pypdf import PdfReader, PdfWriter
from pypdf.generic import ArrayObject, Fit, FloatObject, NameObject, NullObject

ROOT = Path(__file__).parents[1]
A4 = {"paperWidth": 8.27, "paperHeight": 11.69}  # inches
MARGINS = {f"margin{side}": 0.7 for side in ("Top", "Bottom", "Left", "Right")}
SWITCHES = ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage")

# The page as paper has it: no navigation, nothing that only moves or unfolds.
PREPARE = """
const done = arguments[0];
document.documentElement.dataset.theme = document.documentElement.dataset.mode = "light";
const style = document.createElement("style");
style.textContent = `
  .bd-header, .bd-header-article, .bd-sidebar, .bd-sidebar-primary, .bd-sidebar-secondary,
  .bd-footer, .prev-next-footer, .headerlink, .skip-link, .frames .knobs, .frames noscript,
  .copybtn, #pst-back-to-top, #jb-print-toc, details.hide:not([open]), details.entry > summary {
    display: none !important;
  }
  .bd-article-container, .bd-content, .bd-main, .bd-article, .bd-container__inner {
    display: block !important; max-width: 100% !important; padding: 0 !important;
  }
  .cell_output, .output, .view, .highlight, pre, table, a.image-reference {
    overflow: visible !important;
  }
  pre {
    white-space: pre-wrap !important; overflow-wrap: anywhere; break-inside: auto !important;
    font-size: 12px !important; padding: 0.5rem !important;
  }
  img, figure, tr { break-inside: avoid; }
  h1, h2, h3, h4 { break-after: avoid; }
  table { display: table !important; font-size: 0.8em; }
`;
document.head.append(style);
document.querySelectorAll("details.entry").forEach(fold => fold.open = true);
document.querySelectorAll(".frames").forEach(figure => {
  const values = [...figure.querySelectorAll("label")].map(label =>
    label.firstElementChild.textContent.trim() + " = " +
    label.querySelector(".value").textContent.trim());
  const note = document.createElement("p");
  note.innerHTML = "<em></em>";
  note.firstChild.textContent = values.length
    ? "Shown at " + values.join(", ") + "; the page on the site has the slider." : "";
  figure.append(note);
});
const images = [...document.images].map(image => {
  image.loading = "eager";
  return image.decode().catch(() => null);
});
const mathematics = window.MathJax ? MathJax.startup.promise : null;
// What a link leads to has a named place in the PDF: a link to each heading, too small to see.
const headings = [...document.querySelectorAll("article section[id]")].map(section => {
  const heading = section.querySelector(":scope > :is(h1, h2, h3)");
  if (!heading) return null;
  heading.querySelectorAll(".headerlink").forEach(link => link.remove());
  const link = document.createElement("a");
  link.href = "#" + section.id;
  link.style = "display: block; width: 1px; height: 1px; margin-bottom: -1px";
  document.querySelector("article").append(link);
  return [+heading.tagName[1], heading.textContent.replace(/\\s+/g, " ").trim(), section.id];
}).filter(heading => heading);
Promise.all([...images, mathematics]).then(() => done(headings), error => done(String(error)));
"""


@dataclass
class Printed:
    """A page as PDF, and its headings: level, text, name of the place."""

    reader: PdfReader
    headings: list


def chapters(toc):
    """Give the parts of the table of contents: a caption, and pages with their depth.

    Examples
    --------
    >>> toc = {"root": "a", "parts": [{"caption": "P", "chapters": [
    ...     {"file": "b", "sections": [{"file": "c"}]}]}]}
    >>> list(chapters(toc))
    [(None, [('a', 0)]), ('P', [('b', 0), ('c', 1)])]
    """
    yield None, [(toc["root"], 0)]
    for part in toc.get("parts", []):
        yield part.get("caption"), list(_files(part["chapters"], 0))


def _files(entries, depth):
    for entry in entries:
        yield entry["file"], depth
        yield from _files(entry.get("sections", []), depth + 1)


def chromium():
    """Start Chromium without a window."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if binary := shutil.which(name):
            options.binary_location = binary
            break
    for switch in SWITCHES:
        options.add_argument(f"--{switch}")
    driver = shutil.which("chromedriver")
    return webdriver.Chrome(options, webdriver.ChromeService(driver) if driver else None)


def printed(browser, path):
    """Print a page of the site."""
    browser.get(path.resolve().as_uri())
    headings = browser.execute_async_script(PREPARE)
    if isinstance(headings, str):
        raise RuntimeError(f"{path} was not set: {headings}")
    options = {"printBackground": True, "generateTaggedPDF": True}
    answer = browser.execute_cdp_cmd("Page.printToPDF", options | A4 | MARGINS)
    return Printed(PdfReader(io.BytesIO(base64.b64decode(answer["data"]))), headings)


def join(parts, pages, site):
    """Join the PDFs of the pages.

    Parameters
    ----------
    parts : iterable of (str or None, list of (str, int))
        Captions, and the pages of each part with their depth, as `chapters` gives them.
    pages : dict of Printed
        The pages, by name.
    site : Path
        The folder of the site, to which the links between pages lead.

    Returns
    -------
    PdfWriter
    """
    writer, starts = PdfWriter(), {}
    for caption, names in parts:
        above = None
        for name, depth in names:
            starts[name] = len(writer.pages)
            writer.append(pages[name].reader, import_outline=False)
            if above is None:  # a bookmark needs its page
                above = [
                    writer.add_outline_item(title=caption, page_number=starts[name])
                    if caption
                    else None
                ]
            item = _outline(writer, pages[name], starts[name], above[: depth + 1][-1])
            above = [*above[: depth + 1], item]
    for name, start in starts.items():
        for index in range(start, start + len(pages[name].reader.pages)):
            _mend_links(writer, index, name, starts, pages, site)
    return writer


def _outline(writer, page, start, parent):
    """Add the headings of a page below `parent`; gives the first, its title."""
    above = {0: parent}
    for level, text, name in page.headings:
        number, top = _place(page.reader, name)
        fit = Fit.xyz(top=top) if top is not None else Fit.fit()
        closest = max(at for at in above if at < level)
        above = {at: item for at, item in above.items() if at <= closest}
        above[level] = writer.add_outline_item(
            title=text, page_number=start + number, parent=above[closest], fit=fit
        )
    return above.get(1, parent)


def _mend_links(writer, index, name, starts, pages, site):
    """Lead the links of a page to places in the file; one to a file of the site leads nowhere."""
    page = writer.pages[index]
    kept = ArrayObject()
    for reference in page.get("/Annots", ()):
        link = reference.get_object()
        address = str(link.get("/A", {}).get("/URI", ""))
        if "/Dest" in link:
            target, place = name, str(link["/Dest"]).removeprefix("/")
        elif address.startswith("file:"):
            parts = urlsplit(address)
            path = Path(unquote(parts.path))
            inside = path.is_relative_to(site.resolve()) and path.suffix == ".html"
            target = path.relative_to(site.resolve()).with_suffix("").as_posix() if inside else ""
            place = unquote(parts.fragment)
        else:
            kept.append(reference)
            continue
        if target in starts:
            link.pop("/A", None)
            number, top = _place(pages[target].reader, place)
            there = writer.pages[starts[target] + number].indirect_reference
            height = NullObject() if top is None else FloatObject(top)
            link[NameObject("/Dest")] = ArrayObject(
                [there, NameObject("/XYZ"), NullObject(), height, NullObject()]
            )
            kept.append(reference)
    if "/Annots" in page:
        page[NameObject("/Annots")] = kept


def _place(reader, name):
    """Give the page and the height of a named place; the top of the first page without one."""
    found = reader.named_destinations.get(f"/{name}")
    if found is None:
        return 0, None
    return reader.get_destination_page_number(found) or 0, found.top


def main(arguments=None):
    """Print the book."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("site", nargs="?", type=Path, default=ROOT / "_build" / "html")
    parser.add_argument("file", nargs="?", type=Path, default=ROOT / "_build" / "book.pdf")
    options = parser.parse_args(arguments)
    parts = list(chapters(yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))))
    names = [name for _, found in parts for name, _ in found]
    if absent := [name for name in names if not (options.site / f"{name}.html").is_file()]:
        parser.error(f"{options.site} has no page {absent[0]}: run `make book` first")
    browser = chromium()
    try:
        pages = {name: printed(browser, options.site / f"{name}.html") for name in names}
    finally:
        browser.quit()
    writer = join(parts, pages, options.site)
    title = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["title"]
    writer.add_metadata({"/Title": title})
    part = options.file.with_name(f".{options.file.name}.part")
    writer.write(part)
    part.replace(options.file)
    print(f"{options.file}: {len(writer.pages)} pages, {options.file.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
