"""The vocoder families: inference-only torch modules, one file each, parametrised by upstream's own config."""
