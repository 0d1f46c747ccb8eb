"""The one error a user sees: a sentence that names the field or file and the remedy."""


class UserError(Exception):
    """A mistake in a config, corpus, path or model. The command prints the message alone and exits with 2."""


class RunError(Exception):
    """A run that cannot go on for a reason that is no mistake of the user's. The command exits with 1."""


class MemoryExhausted(Exception):  # noqa: N818
    """A batch did not fit into the memory of its device; a smaller one may."""


class UnusableImage(ArithmeticError):  # noqa: N818
    """An image of one flat colour: the model has overflowed, or a filter has blacked it out."""


def reason(error: BaseException, limit: int = 200) -> str:
    """The first line of an error's message, or its class where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:limit] if lines else type(error).__name__
