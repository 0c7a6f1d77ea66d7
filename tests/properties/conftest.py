"""Few examples, the same on every run: a property test is not a search here."""

from hypothesis import settings

settings.register_profile("book", max_examples=25, deadline=None, derandomize=True)
settings.load_profile("book")
