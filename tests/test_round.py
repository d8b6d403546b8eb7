"""A user's whole round in git and DVC: own photographs, experiments, push, and on another machine on from there.

No photograph enters git or DVC's cache on the way, and nothing that is known is computed again.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import yaml_files
from tests.pictures import COLOURS, draw_classes
from tests.test_imports import ROOT
from tests.test_repro import edit_for_tiny, ran

pytestmark = [pytest.mark.slow, pytest.mark.network, pytest.mark.one_precision]  # git and DVC

PHOTOGRAPHS = 1000
MOST_COLUMNS = 40
SIDE = 186  # of noise as PNG: 100 kB
# What DVC says of git, and what it warns of, is not for a user of this project.
RAW = re.compile(r"git add|autostage|^WARNING:|Traceback|analytics|is empty|failed to load", re.MULTILINE)


class Clone:
    """A user's clone and what they type in it."""

    def __init__(self, origin: Path, folder: Path) -> None:
        self.folder = folder
        subprocess.run(["git", "clone", "-q", origin, folder], check=True)
        self.git("config", "user.email", "user@example.org")
        self.git("config", "user.name", "A User")

    def git(self, *args: str) -> str:
        return self._done("git", *args)

    def dvc(self, *args: str) -> str:
        """What the command says. Fails where it fails, or says what is not for users."""
        said = self._done("dvc", *args)
        assert not (raw := RAW.search(said)), f"dvc {' '.join(args)} says {raw[0]!r}:\n{said}"
        return said

    def refused(self, *args: str) -> str:
        """What dvc says when it fails."""
        done = self._run("dvc", *args)
        assert done.returncode, done.stdout
        return done.stdout + done.stderr

    def contents(self) -> set[str]:
        """The sha256 of all that git, DVC's cache and its temporary folders hold."""
        listed = self.git("cat-file", "--batch-all-objects", "--batch-check=%(objecttype) %(objectname)").splitlines()
        blobs = [line.split()[1] for line in listed if line.startswith("blob")]
        in_git = [self._run("git", "cat-file", "blob", blob, text=False).stdout for blob in blobs]
        in_dvc = [p.read_bytes() for p in (self.folder / ".dvc").rglob("*") if p.is_file()]
        return {hashlib.sha256(content).hexdigest() for content in [*in_git, *in_dvc]}

    def git_bytes(self) -> int:
        """Of all objects, packed or loose."""
        counted = dict(line.split(": ") for line in self.git("count-objects", "-v").splitlines())
        return 1024 * (int(counted["size"]) + int(counted["size-pack"]))

    def _done(self, *command: str) -> str:
        done = self._run(*command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return str(done.stdout + done.stderr)

    def _run(self, *command: str, text: bool = True) -> subprocess.CompletedProcess[str]:
        environment = {
            k: v for k, v in os.environ.items() if not k.startswith(("GIT_", "CNNCODES_CACHE", "PYTHONPATH"))
        }
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=text, check=False)


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's files with params for a tiny network, as a bare repository."""
    folder = tmp_path_factory.mktemp("origin")
    made = folder / "made"
    for name in ("pipeline", "stages"):
        shutil.copytree(ROOT / name, made / name, ignore=shutil.ignore_patterns("__pycache__"))
    (made / ".dvc").mkdir()
    for name in ("dvc.yaml", ".dvcignore", ".gitignore", ".dvc/config", ".dvc/.gitignore"):
        shutil.copy(ROOT / name, made / name)
    params = yaml_files.params(ROOT / "params.yaml")
    params["dataset"] |= {"repeats": 1, "draw_size": 32}
    params["weights"] |= {"arch": "tinyvgg", "source": "random:0"}
    params["codes"] |= {"layers": ["conv5_2-avg"], "crop": 32, "scales": [32], "precision": "fp32"}
    params["heads"] |= {"heads": ["knn"]}
    params["report"] |= {"learning_curve": [1.0], "map_images": 20, "map_method": "pca"}
    edit_for_tiny(params)
    params["retrieval"] |= {"specs": ["lsh16-conv5_2-avg"], "approximate": {}}
    params["finetune"] |= {"run": ["frozen"], "max_train": 100}
    params["tuned"] |= {"strategy": "frozen"}
    (made / "params.yaml").write_text(yaml_files.dump_params(params))
    author = ("-c", "user.name=a", "-c", "user.email=a@b")
    for command in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", "start"]):
        subprocess.run(["git", *command], cwd=made, check=True)
    subprocess.run(["git", "clone", "-q", "--bare", made, folder / "project.git"], check=True)
    return folder / "project.git"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of noisy squares in three classes, and a file with the name of an image that is none."""
    folder = tmp_path_factory.mktemp("photos") / "photos"
    generator = np.random.default_rng(0)
    for i in range(PHOTOGRAPHS):
        name, colour = list(COLOURS.items())[i % len(COLOURS)]
        (folder / name).mkdir(parents=True, exist_ok=True)
        noise = generator.integers(-50, 50, size=(SIDE, SIDE, 3))
        pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
        # One in three has no suffix, as a program exports them at times.
        Image.fromarray(pixels).save(folder / name / (f"{i}.png" if i % 3 else f"{i}"), "PNG", compress_level=1)
    return folder


def digests(folder: Path) -> set[str]:
    return {hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def test_photographs_enter_neither_git_nor_dvc(origin: Path, photos: Path, tmp_path: Path) -> None:
    """Those outside the project's folder, then the same inside."""
    user = Clone(origin, tmp_path / "project")
    user.dvc("repro", "codes")  # the drawings, which are unpacked into out/dataset/images
    drawn = digests(user.folder / "out/dataset/images")
    assert len(drawn) > 1000 and not drawn & user.contents()
    for root in (str(photos), "photos"):
        if root == "photos":
            shutil.copytree(photos, user.folder / root)
        before = user.git_bytes()
        asked = ("-S", "dataset.source=folder", "-S", f"dataset.root={root}", "-S", "codes.layers=[conv5_2-avg]")
        assert "dataset" in ran(user.dvc("exp", "run", *asked, "codes"))
        assert len((user.folder / "out/dataset/manifest.csv").read_text().splitlines()) == PHOTOGRAPHS + 1
        assert user.git_bytes() - before < 1_000_000
        assert not digests(photos) & user.contents()
    assert len(list((user.folder / ".dvc/cache").rglob("*"))) > 10, "what stages make is cached"


def test_the_whole_round(origin: Path, tmp_path: Path) -> None:
    user = Clone(origin, tmp_path / "project")
    photos = draw_classes(user.folder / "photos", per_class=12)
    user.dvc("remote", "add", "--default", "store", str(tmp_path / "store"))
    params = yaml_files.params(user.folder / "params.yaml")
    draw_classes(user.folder / "first", per_class=12, seed=1)
    params["dataset"] |= {"source": "folder", "root": "first"}
    (user.folder / "params.yaml").write_text(yaml_files.dump_params(params))
    user.git("commit", "-qam", "a remote, and a first set")
    user.dvc("repro")
    assert "dvc.lock" in user.git("diff", "--cached", "--name-only"), "staged, in place of advice to do so"
    user.git("commit", "-qm", "the first set")
    assert (user.folder / "out/report/index.html").is_file()

    # Two experiments, side by side; the first is the one to keep.
    user.dvc("exp", "run", "-n", "mine", "-S", "dataset.root=photos")
    changed = ran(user.dvc("exp", "run", "-n", "standardised", "-S", "heads.fit.scaling=standardise"))
    assert "heads" in changed and not {"digests", "dataset", "codes"} & changed
    shown = user.dvc("exp", "show", "--json")
    assert all(name in shown for name in ("mine", "standardised"))
    columns = user.dvc("exp", "show", "--only-changed", "--csv").splitlines()[0].split(",")
    assert {"dataset.root", "heads.fit.scaling", "best_hash.map_at_k"} <= {c.rpartition(":")[2] for c in columns}
    assert len(columns) <= MOST_COLUMNS, columns
    assert "standardise" in user.dvc("params", "diff", "--json")
    assert "heads.fit.scaling" in user.dvc("exp", "diff", "mine", "standardised", "--json")
    user.dvc("metrics", "diff")
    user.dvc("plots", "show", "--out", str(tmp_path / "plots"))
    user.dvc("exp", "apply", "mine")
    assert ran(user.dvc("repro")) == set()
    assert "up to date" in user.dvc("status")

    # A photograph more is noticed; without it all is as before.
    shutil.copy(photos / "red/0.png", photos / "red/new.png")
    assert "photos" in user.dvc("status")
    (photos / "red/new.png").unlink()
    assert "up to date" in user.dvc("status")
    user.git("add", "dvc.lock", "params.yaml")  # an experiment leaves the first one dvc.lock to its user
    user.git("commit", "-qm", "mine")

    # What the two commits measured, and a drawing of both.
    compared = user.dvc("metrics", "diff", "--all", "--md", "HEAD~1", "HEAD")
    for name in ("best.accuracy", "best_accuracy.knn", "best_hash.map_at_k", "strategy_accuracy.frozen", "images"):
        row = next(line for line in compared.splitlines() if f" {name} " in line)
        old, new, difference = map(float, row.strip("| ").split("|")[2:])
        assert new - old == pytest.approx(difference, abs=1e-4), row
    user.dvc("plots", "diff", "HEAD~1", "HEAD", "--out", str(tmp_path / "diff"))
    drawn = (tmp_path / "diff/index.html").read_text()
    assert all(title in drawn for title in ("Learning curve", "Precision by recall of the best hash", "HEAD~1"))

    # In copies of the project: the photographs by their full path; what the project's cache holds is not made again.
    by_full_path = ("-S", f"dataset.root={photos}")
    refused = user.refused("exp", "run", "--temp", "-S", "heads.fit.seed=1", "digests")
    assert "No such file or directory" in refused and "photos" in refused
    said = user.dvc("exp", "run", "--temp", "-n", "copied", *by_full_path, "-S", "heads.fit.scaling=none", "codes")
    assert "0 of them by reading" in said
    user.dvc("exp", "run", "--queue", "-n", "queued", *by_full_path, "-S", "heads.fit.scaling=none", "codes")
    user.dvc("queue", "start")
    for _ in range(300):
        status = user.dvc("queue", "status")
        if "Running" not in status and "Queued" not in status:
            break
        time.sleep(1)
    assert "Success" in status, user.dvc("queue", "logs", "queued")

    user.git("push", "-q", "origin", "HEAD")
    user.dvc("push")
    user.dvc("exp", "push", "origin", "--all-commits")
    assert not digests(photos) & user.contents()

    # Elsewhere, first without the photographs, then with them.
    other = Clone(origin, tmp_path / "other")
    other.dvc("pull")
    page = (other.folder / "out/report/index.html").read_bytes()
    assert page == (user.folder / "out/report/index.html").read_bytes()
    assert f"No such file or directory: '{other.folder / 'photos'}'" in other.refused("repro")
    assert "up to date" in other.dvc("repro", "--allow-missing")
    shutil.copytree(photos, other.folder / "photos")
    assert ran(other.dvc("repro")) == set()
    assert "up to date" in other.dvc("status")
    other.dvc("exp", "pull", "origin", "standardised")
    other.dvc("exp", "apply", "standardised")
    assert "up to date" in other.dvc("status")
