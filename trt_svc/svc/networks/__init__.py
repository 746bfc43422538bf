"""The networks of a voice, inference only."""
