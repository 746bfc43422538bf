"""Runtimes for a vocoder network, one file each."""
