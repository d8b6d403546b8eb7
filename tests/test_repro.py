"""A whole `dvc repro` on a tiny set: it ends, it is up to date, and what changes reruns what it must and no more."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.dag.closure import Closure
from tests import yaml_files
from tests.pictures import draw_classes
from tests.test_dag import STAGES, results
from tests.test_imports import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.network, pytest.mark.one_precision]  # which stages DVC runs


# Of a process that a stage runs in: writes which files of Python it has loaded, and which others beside them it opened.
WATCH = """
import atexit, os, sys
stage, root = os.environ.get("DVC_STAGE", ""), os.getcwd() + "/"
if stage:
    opened = set()
    sys.addaudithook(lambda event, args: opened.add(str(args[0])) if event == "open" else None)
    def write():
        loaded = [getattr(m, "__file__", None) for m in list(sys.modules.values())]
        paths = {os.path.abspath(p) for p in [*loaded, *opened] if p}
        ours = {p.removeprefix(root) for p in paths if p.startswith((root + "pipeline/", root + "stages/"))}
        with open(f"{os.environ['SEEN']}/{stage.split('@')[0]}.{os.getpid()}", "w") as f:
            f.write("\\n".join(p for p in ours if "__pycache__" not in p and os.path.isfile(p)))
    atexit.register(write)
"""


def environment(folder: Path) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return os.environ | {"PATH": path, "DVC_NO_ANALYTICS": "1", "PYTHONPATH": str(folder)}


def dvc(*args: str, cwd: Path, watched: Path | None = None) -> str:
    """What it says. `watched`: a folder that gets a file a process of a stage, with the files of ours that it used."""
    env = environment(cwd)
    if watched is not None:
        (watched / "sitecustomize.py").write_text(WATCH)
        env |= {"PYTHONPATH": f"{watched}{os.pathsep}{cwd}", "SEEN": str(watched)}
    done = subprocess.run(["dvc", *args], capture_output=True, text=True, cwd=cwd, env=env, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def ran(output: str) -> set[str]:
    return set(re.findall(r"Running stage '([^']+)'", output))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's files with params for a folder of 36 drawings and a tiny network."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("pipeline", "stages"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, folder / name)
    draw_classes(folder / "photos", per_class=12)
    params = yaml_files.params(ROOT / "params.yaml")
    params["dataset"] |= {"source": "folder", "root": "photos", "repeats": 2}
    params["weights"] |= {"arch": "tinyvgg", "source": "random:0"}
    params["codes"] |= {"layers": ["conv5_2-avg", "pool4-flatten"], "crop": 32, "scales": [32]}
    params["heads"] |= {"heads": ["svm", "knn"]}
    params["report"] |= {"learning_curve": [0.5, 1.0], "map_images": 20, "map_method": "pca"}
    edit_for_tiny(params)
    (folder / "params.yaml").write_text(yaml_files.dump_params(params))
    dvc("init", "--no-scm", "-q", cwd=folder)
    return folder


def edit_for_tiny(params: dict[str, dict[str, object]]) -> None:
    """Sections beyond the main job, cut down to what the tiny network has."""
    if "retrieval" in params:
        params["retrieval"] |= {"specs": ["cosine-conv5_2-avg", "lsh16-conv5_2-avg"]}
    if "finetune" in params:
        params["finetune"] |= {"run": ["frozen", "scratch"], "epochs": 1, "repeats": 1}
    if "sanity" in params:
        params["sanity"] |= {"overfit_steps": 10, "sweep_steps": 8, "grid_rates": [1.0], "epochs": 1, "rounds": 1}
    if "tuned" in params:
        params["tuned"] |= {"strategy": "scratch", "hashes": ["lsh8-pool5-avg"]}


def change(project: Path, section: str, **values: object) -> None:
    path = project / "params.yaml"
    params = yaml_files.params(path)
    params[section] |= values
    path.write_text(yaml_files.dump_params(params))


def written(project: Path) -> dict[str, int]:
    """Items of heads and retrieval -> when their metrics.json was written."""
    found = [p for stage in ("heads", "retrieval") for p in project.glob(f"out/{stage}/*/metrics.json")]
    return {p.parent.relative_to(project / "out").as_posix(): p.stat().st_mtime_ns for p in found}


def require_closures(project: Path, watched: Path) -> None:
    """Fails if a process used a file of the project that is not among its stage's code."""
    closure = Closure(project)
    used: dict[str, set[str]] = {}
    for path in watched.glob("*.*[0-9]"):
        used.setdefault(path.stem, set()).update(path.read_text().splitlines())
    assert used.keys() == STAGES.keys()
    for stage in used.keys() - {"code"}:  # which reads all files, since it takes their digests
        assert f"stages/{stage}.py" in used[stage] and len(used[stage]) > 10
        assert used[stage] <= {p.as_posix() for p in closure.files(stage)}, stage


def test_repro_from_nothing_to_the_page(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNCODES_CACHE", str(project / ".cnncodes"))
    stages = ran(dvc("repro", cwd=project, watched=tmp_path))
    require_closures(project, tmp_path)
    assert {
        "dataset",
        "weights",
        "codes",
        "figures",
        "report",
        "heads",
        "retrieval",
    } <= stages
    assert (project / "out/heads/pool4-flatten-knn/metrics.json").is_file()
    assert "conv5_2-avg" in (project / "out/report/index.html").read_text()
    assert ran(dvc("repro", cwd=project)) == set()

    # The parts are a function of manifest, weights and params: a cold store gives the same bytes.
    lock = yaml_files.load(project / "dvc.lock")
    codes = lock["stages"]["codes"]["outs"]
    shutil.rmtree(project / ".cnncodes")
    dvc("repro", "--force", "--single-item", "codes", cwd=project)
    assert yaml_files.load(project / "dvc.lock")["stages"]["codes"]["outs"] == codes

    # How the page looks is code of the stage that draws it, and of no other.
    before = (project / "out/report/index.html").read_text()
    css = project / "pipeline/report/templates/page.css"
    css.write_text(css.read_text() + "\nbody { color: teal }\n")
    assert ran(dvc("repro", cwd=project)) == {"code", "report"}
    after = (project / "out/report/index.html").read_text()
    assert after != before and after.replace("\nbody { color: teal }\n", "") == before

    # A new layer runs its own heads alone, and one that is asked no more leaves nothing.
    change(project, "codes", layers=["conv5_2-avg", "pool5-max"])
    found = written(project)
    again = ran(dvc("repro", "heads", "retrieval", cwd=project))
    assert {"heads", "retrieval"} <= again and not {"dataset", "weights"} & again
    now = written(project)
    assert now.keys() - found.keys() == {"heads/pool5-max-svm", "heads/pool5-max-knn"}
    assert found.keys() - now.keys() == {"heads/pool4-flatten-svm", "heads/pool4-flatten-knn"}
    assert all(found[name] == when for name, when in now.items() if name in found), "no other was computed"

    # What was changed by hand is made again, and it alone.
    (project / "out/heads/pool5-max-knn/predictions.h5").write_bytes(b"")
    found = written(project)
    assert "heads" in (again := ran(dvc("repro", "heads", "retrieval", cwd=project))) and "retrieval" not in again
    now = written(project)
    assert {name for name, when in now.items() if when != found[name]} == {"heads/pool5-max-knn"}

    # A new photograph is noticed.
    draw_classes(project / "photos", per_class=13, seed=1)
    assert {"dataset", "codes"} <= ran(dvc("repro", "codes", cwd=project))
    assert {"heads", "retrieval", "figures"} <= json.loads(dvc("status", "--json", cwd=project)).keys()


def test_a_touched_module_reruns_the_stages_that_import_it(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNCODES_CACHE", str(project / ".cnncodes"))
    dvc("repro", cwd=project)
    for files, users in (
        (["pipeline/web/app.py"], set()),
        (["pipeline/strategies/sanity/grid.py", "pipeline/advice/least_squares.py"], {"sanity", "advise"}),
    ):
        for file in files:
            with (project / file).open("a") as f:
                f.write("# touched\n")
        assert "'pipeline'" in str(json.loads(dvc("status", "--json", cwd=project))["code"]), "a touched file is seen"
        assert ran(dvc("repro", "code", cwd=project)) == {"code"}
        changed = json.loads(dvc("status", "--json", cwd=project))
        assert {name.partition("@")[0] for name in changed} == users, files
        assert ran(dvc("repro", cwd=project)) == set(changed), "and none because of what these wrote"


def test_hostile_names_reach_no_shell(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stages before are up to date, so that what has such a name runs right away."""
    monkeypatch.setenv("CNNCODES_CACHE", str(project / ".cnncodes"))
    shipped = (project / "params.yaml").read_text()
    dvc("repro", cwd=project)
    frozen = yaml_files.params(project / "params.yaml")["finetune"]["strategies"]["frozen"]
    names = ["lsh16-conv5_2-avg;touch PWNED;#", "$(touch PWNED)", "`touch PWNED`", "a' && touch PWNED '", "--help"]
    change(project, "retrieval", specs=names)
    change(project, "heads", heads=["svm", *names])
    change(project, "finetune", run=names, strategies=dict.fromkeys(["frozen", *names], frozen))
    change(project, "sanity", strategies=names)
    done = subprocess.run(
        ["dvc", "repro", "--keep-going"],
        capture_output=True,
        text=True,
        cwd=project,
        env=environment(project),
        check=False,
    )
    (project / "params.yaml").write_text(shipped)
    assert done.returncode != 0 and "Traceback" not in done.stderr, done.stderr
    assert not list(project.rglob("PWNED"))


def test_a_name_leads_dvc_to_no_other_files(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC removes a stage's outs before it runs the stage, which would refuse the name."""
    monkeypatch.setenv("CNNCODES_CACHE", str(project / ".cnncodes"))
    dvc("repro", cwd=project)
    shipped = (project / "params.yaml").read_text()
    frozen = yaml_files.params(project / "params.yaml")["finetune"]["strategies"]["frozen"]
    outs = {path.rpartition("/")[2] for stage in STAGES for path in results(stage) if "${" in path}
    victims = [folder / name for folder in (project / "victim", project.parent / "victim") for name in sorted(outs)]
    for file in victims:
        file.parent.mkdir(exist_ok=True)
        file.write_text("precious")
    names = ["../../victim", "../../../victim"]
    try:
        change(project, "sanity", strategies=names)
        change(project, "finetune", run=names, strategies=dict.fromkeys(["frozen", *names], frozen))
        for command in (["repro"], ["repro", "--keep-going"], ["repro", "--ignore-errors"], ["checkout", "--force"]):
            subprocess.run(["dvc", *command], capture_output=True, cwd=project, env=environment(project), check=False)
            assert all(file.is_file() for file in victims), command
    finally:
        (project / "params.yaml").write_text(shipped)
