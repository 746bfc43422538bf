"""The `trt-svc` command: thin shells over the library, one file per command."""
