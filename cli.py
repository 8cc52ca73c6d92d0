"""Entry point of ``stream-ann``: from its first moment on, signals end it as they should.

The command line itself is ``commands.app``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from commands.app import app

__all__ = ["app", "main"]


def __getattr__(name: str) -> Any:
    """Import the command line when it is asked for: by then :func:`main` listens to signals."""
    if name == "app":
        from commands.app import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main() -> NoReturn:
    """Entry point of the command ``stream-ann``."""
    from commands.ending import INTERRUPTED, Ending

    ending = Ending()
    code: object = 0
    try:
        try:
            ending.catching = True
            from commands.app import app

            code = app(standalone_mode=False)
        finally:
            ending.catching = False
    except SystemExit as end:
        code = end.code
    except BaseException as error:
        # Whatever Ctrl-C breaks off outside of any command, such as an import, may say so in words of its own.
        if ending.came:
            code = INTERRUPTED
        elif isinstance(error, Exception):
            from commands.shared import report_usage

            code = report_usage(error)
        else:
            raise
    # Every file is closed and every thread has ended by now. Taking torch apart module by module would cost seconds,
    # during which Ctrl-C seems to hang.
    ending.leave(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    main()
