"""How a command ends: its exit code, one line on stderr, and never a traceback."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.base.front import MEANINGS, ExitCode

ROOT = Path(__file__).parents[2]


def ends(body: str, *, signals: tuple[int, ...] = (), debug: bool = False, **streams: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a program whose main has this body; `signals` are sent once it says 'ready'."""
    imports = "from pipeline.base import front\nimport logging, os, sys, time, threading, warnings\n"
    code = f"{imports}def main():\n    {body}\n"
    env = os.environ | {"PYTHONPATH": str(ROOT), "CNNCODES_DEBUG": "1" if debug else ""}
    program = subprocess.Popen(
        [sys.executable, "-u", "-c", code + "front.run(main, name='cnncodes')"],
        stdout=streams.get("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
        text=True,
        env=env,
    )
    for number in signals:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        program.send_signal(number)
    said, errors = program.communicate(timeout=60)
    return program.returncode, said or "", errors


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("return None", 0, ""),
        ("return 3", 3, ""),
        (
            "from pipeline.base.errors import UserError; raise UserError('a\\nb', allowed=['c', 'd'])",
            2,
            "b; allowed: c, d",
        ),
        ("return {}['key']", 70, "cnncodes: a fault of this program: KeyError: 'key'"),
        ("open('/nowhere/at/all')", 2, "cnncodes: error: /nowhere/at/all does not exist"),
        (
            f"raise OSError({errno.ENOSPC}, 'x', '/disk/file')",
            2,
            "no space left on the device while writing /disk/file",
        ),
        (f"raise OSError({errno.EIO}, 'x', '/disk/file')", 2, "the device failed while /disk/file was read or written"),
        ("raise RuntimeError('write failed: errno = 28, error message')", 2, "no space left on the device"),
        ("raise MemoryError", 2, "there is not enough memory; allowed: fewer images at once"),
        ("raise RuntimeError('DefaultCPUAllocator: can\\'t allocate memory')", 2, "there is not enough memory"),
        ("raise KeyboardInterrupt", 130, "cnncodes: stopped by Ctrl-C"),
        (
            "e = KeyboardInterrupt(); e.add_note('3 of 4 are kept'); raise e",
            130,
            "cnncodes: stopped by Ctrl-C; 3 of 4 are kept",
        ),
    ],
)
def test_each_end_has_its_code_and_at_most_one_line(body: str, code: int, said: str) -> None:
    ended, answer, errors = ends(body)
    assert (ended, answer) == (code, "")
    assert said in errors and "Traceback" not in errors
    assert errors.count("\n") == (1 if said else 0)


@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGHUP, "SIGHUP")])
def test_a_signal_tidies_up_and_is_told(number: int, name: str, tmp_path: Path) -> None:
    mark = tmp_path / "tidied"
    body = f"""
    try:
        print('ready'); time.sleep(60)
    finally:
        open({str(mark)!r}, 'w')
    """
    code, _, errors = ends(body, signals=(number,))
    assert (code, errors) == (128 + number, f"cnncodes: stopped by {name}\n")
    assert mark.exists()


def test_what_nohup_ignores_stays_ignored() -> None:
    body = "\n    print('ready'); sys.stdin.readline(); return 0"
    code = f"from pipeline.base import front\nimport sys\ndef main():\n    {body}\nfront.run(main, name='x')"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    program = subprocess.Popen(
        ["nohup", sys.executable, "-u", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    program.send_signal(signal.SIGHUP)
    program.communicate("go on\n", timeout=60)
    assert program.returncode == 0


def test_a_traceback_is_there_for_who_asks() -> None:
    code, _, errors = ends("return {}['key']", debug=True)
    assert code == 70 and "Traceback" in errors


def test_the_words_of_libraries_stay_out() -> None:
    body = """
    warnings.warn('from a library', UserWarning)
    logging.getLogger('library').warning('from a library')
    logging.getLogger('pipeline.codes').info('from us')
    """
    assert ends(body) == (0, "", "from us\n")


def test_a_thread_that_ends_by_an_error_shows_no_traceback() -> None:
    body = "t = threading.Thread(target=lambda: {}['key']); t.start(); t.join()"
    code, _, errors = ends(body)
    assert code == 0 and errors.startswith("a thread ended: KeyError: 'key'") and errors.count("\n") == 1


def test_escapes_in_names_reach_no_terminal() -> None:
    body = r"""
    logging.getLogger('pipeline').info('%s', 'a\x1b[2J\x9b1mb')
    from pipeline.base.errors import UserError
    raise UserError('no file \x1b]0;title\x07 \u202ecod.exe')
    """
    code, _, errors = ends(body)
    assert code == 2
    assert errors == "a\\x1b[2J\\x9b1mb\ncnncodes: error: no file \\x1b]0;title\\x07 \\u202ecod.exe\n"


def test_a_reader_that_leaves_is_no_fault() -> None:
    body = "sys.stdout.write('x' * 1_000_000)"
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        code, _, errors = ends(body, stdout=pipe)
    assert (code, errors) == (128 + signal.SIGPIPE, "")


def test_a_help_whose_reader_leaves_ends_as_a_reader_that_leaves() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    call, env = [sys.executable, "-m", "pipeline.cli", "--help"], os.environ | {"PYTHONPATH": str(ROOT)}
    with os.fdopen(writing, "w") as pipe:
        done = subprocess.run(call, stdout=pipe, stderr=subprocess.PIPE, text=True, check=False, env=env)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_streams_that_are_closed_stay_free_of_files(tmp_path: Path) -> None:
    """The first file that is opened would get the place of a closed stream, and all that is printed."""
    wanted = tmp_path / "file"
    body = f"""
    with open({str(wanted)!r}, 'w') as f:
        print('said', flush=True)
        os.write(1, b'said')
        f.write('file')
    """
    imports = "from pipeline.base import front\nimport os\n"
    program = f"{imports}def main():\n{body}\nfront.run(main, name='cnncodes')"
    call = [sys.executable, "-c", program]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["sh", "-c", '"$@" <&- >&-', "sh", *call], stderr=subprocess.PIPE, text=True, env=env, check=False
    )
    assert (done.returncode, done.stderr, wanted.read_text()) == (0, "", "file")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_an_answer_on_a_full_disk_is_told() -> None:
    with Path("/dev/full").open("w") as full:
        code, _, errors = ends("sys.stdout.write('x' * 100)", stdout=full)
    assert code == 2 and "no space left on the device" in errors and errors.count("\n") == 1


def command(*args: str) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-m", "pipeline.cli", *args]
    return subprocess.run(call, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)})


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["extract"], "Missing option"),
        (["extract", "x", "--out"], "'--out'"),
        (["extract", "x", "--out", "y", "--nonsense"], "No such option"),
        (["nonsense"], "allowed: extract, layers, info, export,"),
        (["weights", "describe"], "allowed: convert, inspect, diff, reference; see `"),
        (["extract", "x", "--out", "y", "--layerz", "z"], "No such option: --layerz; allowed: --layers; see"),
        (["serve", "x", "--port", "many"], "error: --port: 'many'; allowed: a whole number; see `"),
        (["serve", "x", "--port", "70000"], "error: --port: '70000'; allowed: at most 65535; see"),
        (["search", "x", "-k", "1.5"], "error: -k: '1.5'; allowed: a whole number; see"),
        (["search", "x", "-k", "0"], "error: -k: '0'; allowed: at least 1; see"),
        (["search", "x", "--radius", "wide"], "error: --radius: 'wide'; allowed: a number; see"),
        (["export", "x", "--layer", "y", "--to", "csv"], "error: --to: 'csv'; allowed: 'npy', 'parquet', 'neon-hdf5'"),
    ],
)
def test_a_command_line_amiss_is_one_line(args: list[str], said: str) -> None:
    done = command(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert said.lower() in done.stderr.lower() and done.stderr.count("\n") == 1 and "--help`" in done.stderr


def test_help_ends_with_the_exit_codes() -> None:
    shown = " ".join(command("--help").stdout.split())
    assert {int(code) for code in MEANINGS} == {0, 1, 2, 3, 70, 130, 143}
    assert all(f"{code.value}: {meaning[:20]}" in shown for code, meaning in MEANINGS.items())
    assert ExitCode.UNANSWERED == 3
