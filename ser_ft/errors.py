"""The one error a user is meant to see."""


class InputError(ValueError):
    """Wrong input: its text is one line that says what is wrong and what to do.

    The commands print that line on stderr and exit with code 2.
    """
