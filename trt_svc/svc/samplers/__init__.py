"""Ways from noise to a mel, one file each."""
