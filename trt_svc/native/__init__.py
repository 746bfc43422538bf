"""Our own compiled CPU kernels: rows of channels, short convolutions with fewer multiplications, fused activations."""
