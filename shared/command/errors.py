"""What cannot be used as it was given."""

from __future__ import annotations


class UserError(Exception):
    """Something that a person gave, a file or an option, cannot be used; the message, a line, says why. A program ends
    with it and exit code ``code``. Every module that reads what people give has its own kind."""

    code = 2
