"""The one error style: a sentence that says what is wrong and what to type next."""


class UserError(Exception):
    """A mistake the user can mend; the command line prints it without a traceback and exits with status 2.

    Args:
        message: one sentence, what is wrong and what to type next.
    """

    exit_status = 2
