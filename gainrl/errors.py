"""The one exception for mistakes that the user can mend, and the first line of any other.

A leaf: every package may import it, it imports nothing.  The command line prints the message alone (no
traceback) and exits with status 2; in Python it is a `ValueError`, so callers need not know the class.
"""


class UserError(ValueError):
    """A value, file or setting that cannot be used; the message names it and the remedy."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
