"""Pitch estimators, one file each."""
