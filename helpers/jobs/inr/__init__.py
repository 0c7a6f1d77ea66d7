"""Jobs of the neural fields: light fields, tilt series, LED arrays; found by their names."""

__all__ = ()
