"""The errors of this project, and how an error's message is shown."""

from __future__ import annotations

import re
import traceback

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")  # controls, bidi, surrogates


class UserError(Exception):
    """A mistake in a config, corpus, path or model.

    The message is one sentence that names the field or file and the remedy. The command prints it and exits with 2.
    """


class RunError(Exception):
    """A run cannot continue, and the user has made no mistake. The command exits with 1."""


class MemoryExhausted(Exception):  # noqa: N818
    """A batch did not fit into the memory of its device; a smaller batch may fit."""


class UnusableImage(ArithmeticError):  # noqa: N818
    """The image has one flat colour: the model has overflowed, or a filter has replaced the image with black."""


def reason(error: BaseException, limit: int = 200) -> str:
    """Return the first line of an error's message without its final full stop, for use inside a sentence.

    An error without a message gives the name of its class. The result has at most ``limit`` characters.
    """
    lines = str(error).strip().splitlines()
    if not lines:
        return type(error).__name__
    return lines[0][:limit].rstrip(". ")


def one_line(error: BaseException) -> str:
    """Return an error's message as one line that is safe to print.

    Names and values in a message come from the user, so control characters are escaped: a terminal must not obey them.
    """
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
