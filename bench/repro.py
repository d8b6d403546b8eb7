"""What DVC itself costs: the demo's stages with scripts that do nothing but write their results.

    python bench/repro.py                  # prints a table, then one line of JSON
    python bench/repro.py --project DIR    # of another checkout, to compare

A small file stands for each out. Times are of one run. CPU is user and system, of DVC and of the scripts it starts.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
# In the place of `python -m stages.<name>`.
SCRIPT = """#!{python} -SE
import json, os
for path in json.load(open(os.environ["BENCH_OUTS"]))[os.environ["DVC_STAGE"].rpartition(":")[2]]:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(open(os.environ["BENCH_CODE"]).read() if path == "out/code.json" else "a,b\\n1,2\\n")
"""
# Prints stage -> files to write: its outs, or a file in those that are folders.
LIST = """
import json
from dvc.repo import Repo
stages = Repo(".").index.stages
deps = {dep.def_path for stage in stages for dep in stage.deps}
files = {}
for stage in stages:
    files[stage.name] = found = []
    for out in (out.def_path for out in stage.outs):
        inside = [dep for dep in deps if dep.startswith(out + "/")]
        folder = "." not in out.rpartition("/")[2]
        found += [f"{dep}/x.txt" for dep in inside] or [f"{out}/x.txt" if folder else out]
print(json.dumps(files))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", type=Path, default=ROOT)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        project, environment = prepare(args.project.resolve(), Path(folder))
        found = {name: timed(command, project, environment) for name, command in COMMANDS.items()}
        lines = len((project / "dvc.lock").read_text().splitlines())
        stages = len(json.loads((Path(folder) / "outs.json").read_text()))
    print(f"{'':24}wall s   CPU s")
    for name, (wall_s, cpu_s) in found.items():
        print(f"{name:24}{wall_s:6.1f}  {cpu_s:6.1f}")
    each = (found["every stage"][1] - found["nothing to do"][1]) / stages
    print(f"{stages} stages, {each:.2f} s of CPU each; dvc.lock has {lines} lines")
    print(json.dumps({"runs": found, "stages": stages, "stage_s": each, "lock_lines": lines}))


COMMANDS = {
    "every stage": ["dvc", "repro"],
    "nothing to do": ["dvc", "repro"],
    "dvc status": ["dvc", "status"],
}


def prepare(project: Path, folder: Path) -> tuple[Path, dict[str, str]]:
    """A copy of the project, and an environment in which its stages' `python` is the script."""
    copy, scripts = folder / "project", folder / "bin"
    scripts.mkdir()
    for name in ("pipeline", "stages"):
        shutil.copytree(project / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "params.yaml", ".dvcignore"):
        shutil.copy(project / name, copy / name)
    own = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": own, "DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(folder / "site")}
    subprocess.run(["dvc", "init", "--no-scm", "-q"], cwd=copy, env=environment, check=True)
    listed = subprocess.run([sys.executable, "-c", LIST], cwd=copy, stdout=subprocess.PIPE, check=True)
    (folder / "outs.json").write_bytes(listed.stdout)
    digests = {path.stem: "0" * 32 for path in (copy / "stages").glob("*.py")}
    (folder / "code.json").write_text(json.dumps(digests))
    (scripts / "python").write_text(SCRIPT.format(python=sys.executable))
    (scripts / "python").chmod(0o755)
    return copy, environment | {
        "PATH": f"{scripts}{os.pathsep}{own}",
        "BENCH_OUTS": str(folder / "outs.json"),
        "BENCH_CODE": str(folder / "code.json"),
    }


def timed(command: list[str], project: Path, environment: dict[str, str]) -> tuple[float, float]:
    """Seconds by the clock, and of user and system."""
    before, started_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    wall_s, after = time.perf_counter() - started_s, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stdout + done.stderr
    return wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
