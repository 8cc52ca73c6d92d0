"""Entry point of ``stream-ann``: from its first moment on, signals end it as they should.

The command line itself is ``commands.app``.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from commands.app import app
    from commands.ending import Ending

__all__ = ["app", "main"]


def __getattr__(name: str) -> Any:
    """Import the command line when it is asked for: by then :func:`main` listens to signals."""
    if name == "app":
        from commands.app import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main() -> NoReturn:
    """Entry point of the command ``stream-ann``."""
    code: object = 0
    ending: Ending | None = None
    try:
        from commands import ending as endings

        ending = endings.Ending()
        try:
            ending.catching = True
            from commands.app import app

            code = app(standalone_mode=False)
        finally:
            ending.catching = False
    except SystemExit as end:
        code = end.code
    except BaseException as error:
        # Whatever Ctrl-C breaks off outside of any command, such as an import, may say so in words of its own. In the
        # first milliseconds it is still Python that hears of it.
        if isinstance(error, KeyboardInterrupt) or (ending is not None and ending.came):
            code = 130
        elif isinstance(error, Exception):
            code = _told(error, started=ending is not None)
        else:
            raise
    # Every file is closed and every thread has ended by now. Taking torch apart module by module would cost seconds,
    # during which Ctrl-C seems to hang.
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # closed, or nobody reads it any more
            stream.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def _told(error: Exception, *, started: bool) -> int:
    """Tell of an error outside of any command in one line; the exit code. One that is not expected is raised again."""
    try:
        from commands.shared import report_usage

        return report_usage(error)
    except Exception:
        # With no memory or no file left, nothing more can be imported to say it better; Python itself may then fail
        # without a reason, and a module that could not be read to its end lacks names from then on.
        halfway = isinstance(error, ImportError) and not isinstance(error, ModuleNotFoundError)
        if started and not halfway and not isinstance(error, MemoryError | OSError | SystemError):
            raise error from None
    print(f"error: {str(error) or type(error).__name__}; see what is used up (ulimit -a)", file=sys.stderr)  # noqa: T201
    return 1


if __name__ == "__main__":
    main()
