"""Lets pytest run the pages of `book/` cell by cell, whichever path it is given."""

pytest_plugins = ["tests.page_collector"]
