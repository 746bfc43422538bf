"""Content encoders, one file per kind."""
