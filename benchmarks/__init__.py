"""Timings and tables over the published configs."""
