"""A prompt as text: control tokens, and the subjects it names."""
