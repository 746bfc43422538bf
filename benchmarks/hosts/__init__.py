"""Other people's programs, unmodified, before and after `trt_svc.accelerate`: `make host-checks HOSTS=DIR`."""
