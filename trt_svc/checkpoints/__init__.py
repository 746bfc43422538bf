"""From a path, folder or alias to a network with its weights, without ever running code from a file."""
