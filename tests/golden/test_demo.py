"""The demo's tables are what they were, as far as processors and precisions let them be.

Slow, for it looks at the `out/` that `make demo` left here, and is passed by where there is none.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.golden import demo

ROOT = Path(__file__).parents[2]
GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "demo" / "tables.json").read_text())


def _is_demo() -> bool:
    """Whether a whole demo lies in `out/`; a user's own images may lie there too."""
    about = ROOT / "out" / "dataset" / "dataset.json"
    whole = (ROOT / "out" / "report" / "index.html").is_file()
    return (
        whole and about.is_file() and json.loads(about.read_text())["source"] == GOLDEN["dataset"]["images"]["source"]
    )


pytestmark = pytest.mark.slow


# Tables that the page has got since: of what was measured before too, in another form.
SINCE = ("report/report/plots/precision.csv is new",)


@pytest.mark.skipif(not _is_demo(), reason="no demo lies in out/: make demo")
def test_the_demo_gives_what_it_gave() -> None:
    found = list(demo.differences(GOLDEN, demo.tables(ROOT / "out")))
    assert [one for one in found if one not in SINCE] == []
