"""The one error that a user can cause and mend."""

from __future__ import annotations


class UserError(Exception):
    """Something the user gave (file, field, option) is wrong; the message names it and says how to mend it.

    The command-line entries print it without a traceback and exit with status 2.
    """
