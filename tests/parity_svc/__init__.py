"""The parts of the SVC pipeline beside upstream's arrays: every comparison once, for the tests and docs/parity.md."""
