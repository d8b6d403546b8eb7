"""Notes on figures, in words, and on the page where the figures stand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from pipeline.report.notes import MOST, sentences, shortened
from tests.report.conftest import SPECS
from tests.report.world import heads_params, make_page, report_params


def test_a_note_says_whose_it_is_and_in_how_many_splits() -> None:
    plain, noted = {"notes": []}, {"notes": ["C = 9 stopped"]}
    found = sentences([("a", [plain, noted, noted]), ("b", [noted, plain, plain]), ("c", [plain] * 3)])
    assert found == ["a and b: C = 9 stopped, in 1 to 2 of 3 splits."]
    assert sentences([("a", [noted, noted])]) == ["a: C = 9 stopped."]
    assert sentences([("a", [{}, plain])]) == []


def test_many_names_and_many_notes_are_counted() -> None:
    assert shortened(list("abcdefgh")) == "a, b, c, d, e and 3 more"
    found = sentences([("a", [{"notes": [f"note {i}" for i in range(20)]}])])
    assert len(found) == MOST and found[-1].startswith("13 more")


def test_notes_stand_on_the_page_where_the_figures_are(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(world, out)
    for folder in sorted((out / "heads").iterdir()):
        path = folder / "metrics.json"
        record = json.loads(path.read_text())
        if record["head"] == "softmax":
            record["repeats"][1]["notes"] = ["C = 100 stopped up to 3 % above its optimum"]
        else:
            record["repeats"][0]["notes"] = ["few <images>"]
        path.write_text(json.dumps(record))
    page = make_page(out, report_params(), heads=heads_params(), specs=SPECS).read_text()
    assert "C = 100 stopped up to 3 % above its optimum, in 1 of 5 splits." in page
    assert "few &lt;images&gt;, in 1 of 5 splits." in page
    answer = page.split('<section id="result"')[1].split("</section>")[0]
    assert "in 1 of 5 splits." in answer, "the best one's notes stand beside it"
