"""What vocoders are fed with: mel spectrograms and f0."""
