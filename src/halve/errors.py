"""The exceptions of halve.

HalveError                  everything below; carries `.hint`, what to do about it
├── FormatError             a value, code or format that a number format cannot hold
├── UnsupportedError        a combination that halve or the target cannot do
├── CheckpointError         a file that is damaged, incomplete, hostile or not what it claims to be
├── RecipeError             a recipe that does not fit the checkpoint
├── LimitError              a limit of memory that the job does not fit in; the hint says the least that would do
├── PlanError               a request that no machine meets; the hint says what would
├── OutputError             the place to write to is taken, full or not writable
├── VerifyError             a quantized checkpoint that does not hold what it should
├── BusyError               a server that has as much to do as it takes on
├── ExpiredError            a request that took longer than the server allows
└── UnknownNameError        a name that no table knows; the hint lists near matches

`exit_code` is what the command line ends with: 2 where the request is wrong (a name, a combination, a recipe: change
the command), 1 where the work failed (change the files, the disk or the place).
"""

from typing import ClassVar

RESUMABLE = "what is finished has been kept"  # the note on the error of a job that can go on


class HalveError(Exception):
    """Base class. The message says what, where and why; `hint` says what to do."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class FormatError(HalveError, ValueError):
    """A value, code or format that a number format cannot hold."""


class UnsupportedError(HalveError):
    """A combination that halve or the target cannot do."""

    exit_code: ClassVar[int] = 2


class CheckpointError(HalveError):
    """A file that is damaged, incomplete, hostile or not what it claims to be."""


class RecipeError(HalveError):
    """A recipe that does not fit the checkpoint."""

    exit_code: ClassVar[int] = 2


class LimitError(HalveError):
    """A limit of memory that the job does not fit in; the hint says the least that would do."""

    exit_code: ClassVar[int] = 2


class PlanError(HalveError):
    """A request that no machine meets; the hint says what would."""

    exit_code: ClassVar[int] = 2


class OutputError(HalveError):
    """The place to write to is taken, full or not writable."""


class VerifyError(HalveError):
    """A quantized checkpoint that does not hold what it should."""


class BusyError(HalveError):
    """A server that has as much to do as it takes on."""


class ExpiredError(HalveError):
    """A request that took longer than the server allows."""


class UnknownNameError(HalveError, KeyError):
    """A name that no table knows; the hint lists near matches."""

    exit_code: ClassVar[int] = 2

    def __init__(self, kind: str, name: str, known: list[str]) -> None:
        import difflib  # noqa: PLC0415 - only on the way to an error

        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(known)}"
        super().__init__(f"unknown {kind} {name!r}", hint=hint)

    def __str__(self) -> str:
        return str(self.args[0])
