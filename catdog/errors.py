"""The one error that a user can do something about."""


class UserError(Exception):
    """A mistake in the command or its input. Scripts print it as one line and exit with 2.

    Attributes:
        argument: the command-line argument to blame, such as `--data-dir`, or None. Scripts set it
            (see `cli.blame`); the modules below them say only what is wrong.
    """

    def __init__(self, message: str, argument: str | None = None):
        super().__init__(message)
        self.argument = argument

    def __str__(self) -> str:
        message = super().__str__()
        return f"argument {self.argument}: {message}" if self.argument else message
