"""Stand-ins with the same surface as the classes of host projects, written from facts about them."""
