"""README's first commands in a copy of the project without .git, and in a repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The project's own files, without .git, and the environment that runs the tests."""
    folder = tmp_path / "copy"
    (folder / ".dvc").mkdir(parents=True)
    for name in ("Makefile", "dvc.yaml", "params.yaml", "pyproject.toml", ".dvcignore", ".dvc/config"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("pipeline", "stages"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / ".venv").mkdir()
    (folder / ".venv/bin").symlink_to(Path(sys.executable).parent)
    (folder / ".venv/.installed").touch()
    return folder


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A command that finds no repository above the folder."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "GIT_CEILING_DIRECTORIES": str(folder.parent),
        "DVC_NO_ANALYTICS": "1",
    }
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_copy_without_git_reproduces(copy: Path) -> None:
    refused = run(copy, "dvc", "repro", "--dry", "code")
    assert refused.returncode and "is not a git repository" in refused.stderr
    assert "without-git" in run(copy, "make", "--dry-run", "--debug=b", "demo").stdout
    assert run(copy, "make", "without-git").returncode == 0
    done = run(copy, "dvc", "repro", "--dry", "code")
    assert done.returncode == 0 and "python -m stages.code" in done.stdout


def test_what_readme_says_to_do_by_hand(copy: Path) -> None:
    command = "dvc config --local core.no_scm true"
    assert f"`{command}`" in (ROOT / "README.md").read_text()
    assert run(copy, *command.split()).returncode == 0
    assert run(copy, "dvc", "repro", "--dry", "code").returncode == 0


def test_a_repository_is_left_as_it_is(copy: Path) -> None:
    assert run(copy, "git", "init", "-q").returncode == 0
    assert run(copy, "make", "without-git").returncode == 0
    assert not (copy / ".dvc/config.local").exists()
    assert run(copy, "dvc", "repro", "--dry", "code").returncode == 0


def test_a_folder_of_a_repository_is_left_as_it_is(copy: Path) -> None:
    assert run(copy.parent, "git", "init", "-q").returncode == 0
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    subprocess.run(["make", "without-git"], cwd=copy, env=environment, check=True)
    assert not (copy / ".dvc/config.local").exists()
