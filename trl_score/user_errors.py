"""What is raised where the user can help it, and no error of Python's own says so. Loads nothing."""


class UserError(Exception):
    """
    Something outside of the program is not as it must be, such as an endpoint that refuses; the message says what to
    do.

    `trl-score` answers it with its message and exit code 2, as it does a `ValueError` or an `OSError`.
    """
