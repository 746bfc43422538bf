"""The projects whose vocoders `accelerate` knows, one module each."""
