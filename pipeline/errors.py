"""The one error a user sees: a sentence that names the field or file and the remedy."""


class UserError(Exception):
    """A mistake in a config, corpus, path or model. The command prints the message alone and exits with 2."""
