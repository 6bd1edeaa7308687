"""Every error that refold raises on purpose.

    RefoldError                      what, where, why, do; knows its exit code
    ├── UsageError            (2)    the call or the definition is wrong; nothing was started
    │   ├── DefinitionChanged (2)    a view's definition changed under an unchanged version
    │   └── ImpureFold        (2)    a Python fold reads what is not the same for every run
    ├── LogError              (3)    the log could not be read or written
    │   ├── UnknownCategory   (3)    no such category stream
    │   ├── LogUnreachable    (3)    nobody answers; trying again later may help
    │   ├── LogGap            (3)    offsets are missing: events are lost to this reader
    │   └── LogChanged        (3)    another log, or another history, under the same name
    ├── StoreError            (3)    a view could not be read or written
    │   ├── UnknownView       (3)    nothing was ever committed under this name
    │   ├── StoreLocked       (3)    another process writes this view
    │   ├── StoreDamaged      (3)    a stored file is not what its digest says
    │   ├── NotReached        (3)    a view has not come so far yet: wait longer
    │   └── Superseded        (3)    a rebuild took over: reopen the new generation and go on
    ├── DataError             (3)    the events cannot be folded as the projection asks
    └── CommitUnknown         (3)    a commit may or may not have happened: reopen to see

A class of its own exists only where a caller acts differently. A message says *what* is wrong, *where*
(category, partition, offset, path), *why* if that is known, and what to *do* next. Secrets never go into one.
"""

from __future__ import annotations


class RefoldError(Exception):
    """The root. ``str(error)`` is the text that a user sees, without the leading ``error:``."""

    exit_code = 3

    def __init__(self, what: str, *, where: str | None = None, why: str | None = None, do: str | None = None) -> None:
        super().__init__(what)
        self.what, self.where, self.why, self.do = what, where, why, do

    def __str__(self) -> str:
        labelled = (("where", self.where), ("why", self.why), ("do", self.do))
        indent = "\n" + " " * 10
        lines = [f"  {label:<7} {text.replace(chr(10), indent)}" for label, text in labelled if text]
        return "\n".join([self.what, *lines])

    def __reduce__(self):  # type: ignore[no-untyped-def]
        # Errors cross process and thread borders inside the engine; keyword arguments must survive that.
        return _rebuild, (type(self), self.what, self.where, self.why, self.do)


def _rebuild(cls: type[RefoldError], what: str, where: str | None, why: str | None, do: str | None) -> RefoldError:
    return cls(what, where=where, why=why, do=do)


class UsageError(RefoldError):
    exit_code = 2


class DefinitionChanged(UsageError):
    pass


class ImpureFold(UsageError):
    pass


class LogError(RefoldError):
    pass


class UnknownCategory(LogError):
    pass


class LogUnreachable(LogError):
    pass


class LogGap(LogError):
    pass


class LogChanged(LogError):
    pass


class StoreError(RefoldError):
    pass


class UnknownView(StoreError):
    pass


class StoreLocked(StoreError):
    pass


class StoreDamaged(StoreError):
    pass


class NotReached(StoreError):
    pass


class Superseded(StoreError):
    pass


class DataError(RefoldError):
    pass


class CommitUnknown(RefoldError):
    pass
