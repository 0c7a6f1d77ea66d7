"""Lets pytest run the pages of `book/` cell by cell, and long files first, whatever it is given."""

pytest_plugins = ["tests.page_collector", "tests.order"]
