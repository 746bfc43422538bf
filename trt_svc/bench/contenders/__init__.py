"""What can run a network, one file per kind; each with its own best settings."""
