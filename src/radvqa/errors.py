"""The errors a user can act on.

::

    RadvqaError            one message, exit code 2, no traceback
    ├── RecipeError        the recipe says something impossible or unknown
    ├── DataError          a file, row or image of a data set is not what its layout promises
    ├── ModelError         a checkpoint, a download or a tensor layout is not what it must be
    ├── TrainError         training cannot go on (NaN loss, a stage that trains nothing, ...)
    └── RunError           the run folder cannot be written, read or resumed

Anything else that escapes is a bug and keeps its traceback.
"""


class RadvqaError(Exception):
    """Something the user can mend. The message says what, where, expected, got and what to do."""

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        expected: str | None = None,
        got: str | None = None,
        fix: str | None = None,
    ) -> None:
        self.what, self.where, self.expected, self.got, self.fix = what, where, expected, got, fix
        lines = [what]
        for name, value in (("where", where), ("expected", expected), ("got", got), ("what to do", fix)):
            if value is not None:
                lines.append(f"  {name}: {value}")
        super().__init__("\n".join(lines))


class RecipeError(RadvqaError):
    """The recipe has an unknown key, a wrong value or asks for something impossible."""


class DataError(RadvqaError):
    """A file, row or image of a data set is not what its layout promises."""


class ModelError(RadvqaError):
    """A checkpoint, download or batch is not what the model needs."""


class TrainError(RadvqaError):
    """Training cannot go on."""


class RunError(RadvqaError):
    """The run folder cannot be written, read or resumed."""
