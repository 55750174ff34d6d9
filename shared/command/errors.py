"""The error class of invalid user input."""

from __future__ import annotations


class UserError(Exception):
    """Invalid user input, such as a file or an option. The message is one line that says why.

    A program prints the message and ends with exit code ``code``. Modules that read user input derive their own class.
    """

    code = 2
