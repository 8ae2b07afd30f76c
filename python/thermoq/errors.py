"""The errors that a user can cause, and the exit code that each kind maps to.

The line between the two kinds: a `UsageError` is wrong in the command line or the configuration
itself; an `InputError` depends on what lies on the disk.
"""


class ThermoqError(Exception):
    """A failure that one line explains; `cli.main` prints the line and exits with `exit_code`."""

    exit_code = 1


class InputError(ThermoqError):
    """A file or directory is not what it should be, or cannot be read or written."""


class UsageError(ThermoqError):
    """A flag, a configuration key or an argument has a value that cannot work."""

    exit_code = 2
