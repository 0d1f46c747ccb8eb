"""Models: where they are and what they are, and how a process runs them."""
