"""What the exit status says, so that scripts need not read text.

An error's class says whose fault it was (`narrowboat_protocol.errors`), and the status follows the class: a
caller's mistake is `USAGE`, whatever was read and not believed, or failed, is `REFUSED`. Silence is neither.
It has a status of its own, because the cure is to try again and not to change anything; and so has a campaign
that did its work and did not bring every device over.
"""

from __future__ import annotations

from enum import IntEnum

from narrowboat_protocol.errors import UsageError


class ExitCode(IntEnum):
    """The statuses of the command line. They are an interface: none ever changes its meaning."""

    OK = 0
    REFUSED = 1
    USAGE = 2
    NO_ANSWER = 3
    CAMPAIGN_FAILED = 4
    INTERRUPTED = 130


EXIT_CODES_HELP = """\
exit status:
  0  done
  1  refused or failed: a signature, a file, a request that the bridge turned down
  2  the command line or a configuration file is wrong
  3  no answer in time from broker or bridge; trying again may help
  4  the campaign ended, and not every device runs the release
"""


class NoAnswerError(Exception):
    """Nobody answered in time. Not a `NarrowboatError`: nobody said anything that could be refused."""


def describe(error: Exception) -> str:
    """The error in one line; of the system's, the file and what is wrong with it."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def exit_code_of(error: Exception) -> ExitCode:
    if isinstance(error, NoAnswerError):
        return ExitCode.NO_ANSWER
    return ExitCode.USAGE if isinstance(error, UsageError) else ExitCode.REFUSED
