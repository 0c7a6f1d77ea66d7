"""Simulated data of known truth, by code that shares nothing with the renderers."""
