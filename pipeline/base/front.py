"""How every command and every stage begins and ends: its log, its signals, its last words and its exit code."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from enum import IntEnum
from types import FrameType
from typing import NoReturn

from pipeline.base.errors import Stopped, UserError
from pipeline.base.failing import told
from pipeline.base.terminal import plain

_SIGNALLED = 128  # and the signal's number, as shells have it
# Signals that came: libraries in C may turn what `_stop` raises into an error of their own.
_signalled: list[int] = []
# Whether the process ends without waiting for its threads.
_at_once: list[bool] = []


class ExitCode(IntEnum):
    """What a program can tell from how a command ended. docs/reliability.md has the table."""

    DONE = 0
    FOUND = 1
    USER = 2
    UNANSWERED = 3
    FAULT = 70
    INTERRUPTED = _SIGNALLED + signal.SIGINT
    TERMINATED = _SIGNALLED + signal.SIGTERM


MEANINGS = {
    ExitCode.DONE: "done; images that were left out or are broken, within the allowed share, are listed",
    ExitCode.FOUND: "a check found something",
    ExitCode.USER: "an error that you can mend: one line says what came, what is allowed, where to look",
    ExitCode.UNANSWERED: "done, but something that was asked for has no answer and is listed",
    ExitCode.FAULT: "a fault of this program; CNNCODES_DEBUG=1 shows where",
    ExitCode.INTERRUPTED: "stopped by Ctrl-C; what is kept is said",
    ExitCode.TERMINATED: "stopped by SIGTERM (129: by SIGHUP); what is kept is said",
}


def run(main: Callable[[], int | None], *, name: str) -> NoReturn:
    """Calls `main` and ends the process: with the code it returns (None is 0), or with that of what it raised.

    `name` begins the line on stderr that says why. A traceback is shown if CNNCODES_DEBUG is 1, and never otherwise.
    """
    try:
        begin()
        code = int(main() or ExitCode.DONE)
        sys.stdout.flush()
    except BaseException as error:  # noqa: BLE001  each has its exit code
        code = _last_words(error, name)
    # What is still in a pipe that nobody reads can't be written, at exit neither.
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if _at_once:
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def end_at_once() -> None:
    """Has the process end without waiting for what its threads still do, nor tidying up at exit."""
    _at_once.append(True)


def begin() -> None:
    """Sends the log to stderr, of libraries only what is an error. SIGTERM and SIGHUP then raise Stopped, and SIGINT
    KeyboardInterrupt.
    """
    _open_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that has no such letter
    handler = logging.StreamHandler()
    handler.setFormatter(_Plain("%(message)s"))
    logging.basicConfig(level=logging.INFO if _debug() else logging.ERROR, handlers=[handler])
    for ours in ("pipeline", "stages"):
        logging.getLogger(ours).setLevel(logging.INFO)
    if not _debug():
        if not sys.warnoptions:
            # To whoever writes a program; what a user should know is said in the program's own words.
            warnings.simplefilter("ignore")
        threading.excepthook = _one_line
        # `run` tells of what ends the command; what else comes here, libraries print while they tidy up.
        sys.excepthook = lambda *_: None
        sys.unraisablehook = lambda _: None
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            # Not where it is ignored, as by nohup, or another's.
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, _stop)


def _open_streams() -> None:
    """Opens standard streams that are closed, to nobody: else the next file that is opened gets their number."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            nobody = os.open(os.devnull, os.O_RDWR)
            if nobody != number:
                os.dup2(nobody, number)
                os.close(nobody)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115  open for as long as the process


def _last_words(error: BaseException, name: str) -> int:
    """Says on stderr what ended the command. Returns the exit code."""
    if isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError):
        error = error.__context__  # rich ends the process where a help's reader has left
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, BrokenPipeError) and error.filename is None:
        return _SIGNALLED + signal.SIGPIPE  # whoever read the answer has left
    if _debug():
        traceback.print_exception(error)
    if not isinstance(error, KeyboardInterrupt) and _signalled:
        error = Stopped(_signalled[0])
    if isinstance(error, KeyboardInterrupt):
        number = error.signal if isinstance(error, Stopped) else signal.SIGINT
        by = "Ctrl-C" if number == signal.SIGINT else number.name
        said = "; ".join([f"stopped by {by}", *getattr(error, "__notes__", ())])
        code = _SIGNALLED + number
    elif (mendable := told(error)) is not None:
        said, code = f"error: {mendable}", int(ExitCode.USER)
    else:
        said, code = f"a fault of this program: {_where(error)}; CNNCODES_DEBUG=1 shows more", int(ExitCode.FAULT)
    _say(f"{name}: {said}")
    return code


def _say(line: str) -> None:
    try:
        sys.stderr.write(plain(" ".join(line.split())) + "\n")
        sys.stderr.flush()
    except OSError as e:
        if e.errno not in (errno.EPIPE, errno.ENOSPC, errno.EIO):
            raise


def _where(error: BaseException) -> str:
    """The error in short, and the last line of ours that it came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "pipeline" in f.filename or "stages" in f.filename] or frames
    place = f" ({os.path.relpath(ours[-1].filename)}:{ours[-1].lineno})" if ours else ""
    return f"{type(error).__name__}: {str(error)[:300]}{place}"


def _one_line(args: threading.ExceptHookArgs) -> None:
    """A thread that ends by an error; who waits for it is told too."""
    if args.exc_value is not None and not isinstance(args.exc_value, (UserError, KeyboardInterrupt, SystemExit)):
        logging.getLogger("pipeline").error("a thread ended: %s", told(args.exc_value) or _where(args.exc_value))


def _stop(number: int, frame: FrameType | None) -> None:
    _signalled.append(number)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    signal.signal(number, signal.SIG_IGN)  # a second one would stop the tidying up; SIGKILL and Ctrl-C still end it
    raise Stopped(number)


def _debug() -> bool:
    return os.environ.get("CNNCODES_DEBUG") == "1"


class _Plain(logging.Formatter):
    """Lines of the log may hold names of files and labels."""

    def format(self, record: logging.LogRecord) -> str:
        return plain(super().format(record), lines=True)
