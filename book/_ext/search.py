"""Sphinx extension: the search finds words without their accents, and the page a reader means.

Names of people carry accents that readers do not type: ``Cramer`` means Cramér. Sphinx ranks pages
by titles alone; here ``book/keywords.yml`` says for each page what a reader would ask to find it.
"""

from __future__ import annotations

import json
import unicodedata
from functools import cache
from pathlib import Path

import yaml
from docutils import nodes
from sphinx.search.en import SearchEnglish

# Words of a question that say nothing of its subject.
QUESTION = (
    "a can do does get how i make me my should the use using what when where which why".split()
)
SPLIT = r"""
var splitQuery = (query) => query.normalize("NFD").replace(/\p{Mark}/gu, "")
    .split(/[^\p{Letter}\p{Number}_]+/gu).filter(term => term);
"""
SCORER = r"""
var Scorer = {
  keywords: %s,
  // A page is meant as much as its best line of keywords covers what was asked.
  score: ([page, title, anchor, description, score]) => {
    const query = new URLSearchParams(location.search).get("q") || "";
    const asked = splitQuery(query.toLowerCase()).filter(word => !stopwords.includes(word));
    const covered = line =>
      asked.filter(word => line.includes(word)).length / Math.max(asked.length, line.length);
    const best = Math.max(0, ...(Scorer.keywords[page] || []).map(covered));
    return score + (anchor ? 0 : 40 * best) - (page.startsWith("book/api/") ? 10 : 0);
  },
  objNameMatch: 11, objPartialMatch: 6, objPrio: {0: 15, 1: 5, 2: -5}, objPrioDefault: 0,
  title: 15, partialTitle: 7, term: 5, partialTerm: 2,
};
"""


def plain(text):
    """Take the accents off."""
    return "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))


class English(SearchEnglish):
    """English whose words carry no accents."""

    js_splitter_code = SPLIT
    stopwords = SearchEnglish.stopwords | set(QUESTION)

    def split(self, input):
        """Split a text into words without accents."""
        return super().split(plain(input))


WORDS = English({})


@cache  # once a build, not once a page
def read(root):
    """The keywords of each page, a list of phrases."""
    text = (Path(root) / "book" / "keywords.yml").read_text(encoding="utf-8")
    return {page: line.split(", ") for page, line in yaml.safe_load(text).items()}


def configure(app, config):
    """Write the scorer with the keywords of all pages in it."""
    lines = {
        page: [WORDS.split(phrase.lower()) for phrase in phrases]
        for page, phrases in read(str(app.srcdir)).items()
    }
    scorer = Path(app.doctreedir) / "scorer.js"
    scorer.parent.mkdir(parents=True, exist_ok=True)
    scorer.write_text(SCORER % json.dumps(lines), encoding="utf-8")
    config.html_search_scorer = str(scorer)


def add_metadata(app, doctree, docname):
    """Give the page its keywords, which the search reads like text, and its first words."""
    first = next(doctree.findall(nodes.paragraph), None)
    if first:
        words = " ".join(first.astext().split())
        doctree.insert(0, nodes.meta(name="description", content=words))
    words = dict.fromkeys(WORDS.split(" ".join(read(str(app.srcdir)).get(docname, ()))))
    if words:  # one by one: Sphinx takes what stands between commas for a word
        doctree.insert(0, nodes.meta(name="keywords", content=", ".join(words)))


def setup(app):
    """Register with Sphinx."""
    app.add_search_language(English)
    app.connect("config-inited", configure)
    app.connect("doctree-resolved", add_metadata)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
