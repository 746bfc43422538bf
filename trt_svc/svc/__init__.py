"""The whole inference of so-vits-svc 4.1, stage by stage."""
