"""The one error a user sees: a sentence that names the field or file and the remedy."""

import re
import traceback

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")  # controls, bidi, surrogates


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


def one_line(error: BaseException) -> str:
    """An error's message as one line that a terminal shows and does not obey: names and values in it are the user's."""
    return printable(str(error))


def printable(text: str) -> str:
    """Return a text with its control characters, line ends included, escaped."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def full_traceback(error: BaseException) -> str:
    """Return the traceback of an error and of everything that led to it, also of causes hidden by ``from None``."""
    report = traceback.TracebackException.from_exception(error)
    link: traceback.TracebackException | None = report
    while link is not None:
        link.__suppress_context__ = False
        link = link.__cause__ or link.__context__
    return "".join(report.format())
