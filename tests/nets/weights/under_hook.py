"""Reads files under Python's audit hook: `python -m tests.nets.weights.under_hook FILE...`."""

from __future__ import annotations

import encodings.ascii  # noqa: F401  the standard library's codec, which reading a pickle's text loads
import os
import sys
from pathlib import Path
from typing import Any

# What no reader may do. `import` and `open` are looked at in `_watch`.
_FORBIDDEN = (
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "os.startfile", "subprocess.Popen",
    "socket.", "urllib.Request", "ftplib.", "smtplib.", "pty.spawn", "ctypes.dlopen", "shutil.", "os.remove",
    "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.chown", "os.truncate", "os.putenv",
    "exec", "compile", "pickle.find_class", "webbrowser.open", "tempfile.",
)  # fmt: skip
_READING = ("r", "rb")
# The one process that looks an HDF5 file through; it gets the file's name and runs nothing of it.
_OURS = [sys.executable, "-P", "-m", "pipeline.base.tried_hdf5"]


def main(paths: list[Path]) -> None:
    """Says one line a file, the UserError that reading it gives. Exits 1 if one gives none, or on a forbidden event."""
    from pipeline.base.errors import UserError
    from pipeline.nets.weights.sources import open_file

    # What a reader imports when it first runs is loaded before, by a healthy file of the same format.
    for suffix in {path.name.partition(".")[2] for path in paths}:
        open_file(paths[0].with_name(f"healthy.{suffix}")).named("tinyvgg")
    loaded = set(sys.modules)
    events: list[str] = []
    allowed: list[Path | None] = [None]

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if allowed[0] is None:
            return
        if event == "subprocess.Popen" and list(arguments[1])[: len(_OURS)] == _OURS:
            return
        if event.startswith(_FORBIDDEN):
            events.append(f"{event} {arguments!r:.200}")
        elif event == "import" and arguments[0] not in loaded:
            events.append(f"import {arguments[0]}")
        elif event == "open" and isinstance(arguments[0], int):  # a pipe to it
            return
        elif event == "open" and (arguments[1] not in _READING or Path(os.fsdecode(arguments[0])) != allowed[0]):
            events.append(f"open {arguments!r:.200}")

    sys.addaudithook(watch)
    for path in paths:
        allowed[0] = path
        try:
            open_file(path).named("tinyvgg")
            events.append(f"{path.name} was read")
        except UserError as e:
            allowed[0] = None
            sys.stdout.write(" ".join(str(e).split()) + "\n")
    allowed[0] = None
    sys.stderr.write("\n".join(events))
    sys.exit(bool(events))


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
