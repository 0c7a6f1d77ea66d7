"""pytest plugin: files that take long start first, and ``--quick`` keeps one test of each file.

Two workers share the files; the one that draws a long file last keeps the other waiting. How long
a file took is remembered in pytest's cache; a file that was never run counts as its kind does.
"""

from __future__ import annotations

from collections import Counter

KEY = "order/seconds"
# What a file of each kind takes, roughly: the order of kinds is what counts.
USUAL = {"book/": 30.0, "tests/meta/": 10.0, "tests/tools/": 60.0, "tests/": 3.0, "": 1.0}


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="only the first test of each file")


def pytest_configure(config):
    config.pluginmanager.register(Seconds(config), "seconds-of-files")


def remembered(config):
    """Seconds of the files that were run before; none where pytest runs without its cache."""
    cache = getattr(config, "cache", None)
    return cache.get(KEY, {}) if cache else {}


def expected(file, seconds):
    """Seconds that a file takes: measured, else the usual of its kind."""
    return seconds.get(file) or next(t for kind, t in USUAL.items() if file.startswith(kind))


def file_of(nodeid):
    """The file of a test's name, with forward slashes."""
    return nodeid.partition("::")[0].replace("\\", "/")


def in_order(nodeids, seconds):
    """Give the names, the longest files first, a file's tests as they were."""
    files = {}
    for name in nodeids:
        files.setdefault(file_of(name), []).append(name)
    longest = sorted(files, key=lambda file: -expected(file, seconds))
    return [name for file in longest for name in files[file]]


def firsts(nodeids):
    """Give the first test of each file."""
    return list({file_of(name): name for name in reversed(nodeids)}.values())[::-1]


def pytest_collection_modifyitems(config, items):
    """Choose and order the tests, in every worker alike."""
    named = {item.nodeid: item for item in items}
    if len(named) < len(items):
        return  # a doctest and a test of one name: leave all as it is
    names = list(named)
    if config.getoption("--quick"):
        names = firsts(names)
        config.hook.pytest_deselected(items=[named[n] for n in set(named) - set(names)])
    items[:] = [named[name] for name in in_order(names, remembered(config))]


class Seconds:
    """Adds up what each file takes, and remembers it."""

    def __init__(self, config):
        self.config, self.seconds = config, Counter()

    def pytest_runtest_logreport(self, report):
        self.seconds[file_of(report.nodeid)] += report.duration

    def pytest_sessionfinish(self):
        config, cache = self.config, getattr(self.config, "cache", None)
        if cache and not hasattr(config, "workerinput") and not config.getoption("--quick"):
            cache.set(KEY, remembered(config) | dict(self.seconds))
