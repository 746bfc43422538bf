"""A torch module as an ONNX graph: traced, rewritten, typed, linted and checked."""
