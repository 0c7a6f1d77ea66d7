"""Few examples, the same on every run: a property test is not a search here."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "book",
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],  # a clock says nothing of a property
)
settings.load_profile("book")
