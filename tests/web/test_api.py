"""The JSON API: answers are the library's, errors are a status and one sentence, nothing tells where files lie."""

from __future__ import annotations

import io
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from pipeline import collection
from pipeline.collection import Collection, Where
from pipeline.web.live import Live
from tests.codes.conftest import draw
from tests.web.conftest import HOSTILE, SMALL, client_of

pytestmark = pytest.mark.network


def ids(answer: dict[str, Any]) -> list[str]:
    return [n["id"] for n in answer["neighbours"]]


def png(seed: int) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 10, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((80, 72)).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("method", ["topk", "lsh", "cosine", "two-stage"])
def test_answers_are_the_collections(client: TestClient, built: Path, method: str) -> None:
    photos = Collection.open(built / "my.index")
    own = str(photos.ids[3])
    found = client.get("/api/search", params={"image": own, "method": method, "k": 5}).json()
    expected = photos.search_id(own, method=method, k=5)
    assert ids(found) == [n.id for n in expected.neighbours]
    assert [n["distance"] for n in found["neighbours"]] == [n.distance for n in expected.neighbours]
    assert [n["rank"] for n in found["neighbours"]] == [1, 2, 3, 4, 5]
    assert (found["method"], found["layer"], found["unit"]) == (method, expected.method.spec, expected.method.unit)
    assert found["network_ms"] is None and found["search_ms"] > 0


def test_an_upload_is_searched_and_kept(client: TestClient, built: Path) -> None:
    photos = Collection.open(built / "my.index")
    data = png(900)
    for sent in (
        {"files": {"image": ("../../etc/passwd", data)}},
        {"content": data, "headers": {"content-type": "image/png"}},
    ):
        found = client.post("/api/search", params={"k": 4, "method": "cosine"}, **sent).json()  # type: ignore[arg-type]
        assert ids(found) == [n.id for n in photos.search(data, k=4, method="cosine").neighbours]
        assert found["network_ms"] > 0
    query = found["query"]
    assert (query["uploaded"], query["width"], query["height"]) == (True, 80, 72)
    again = client.get("/api/search", params={"image": query["id"], "k": 4, "layer": "conv3_3"}).json()
    assert (again["method"], again["layer"], again["network_ms"]) == ("cosine", "conv3_3-avg", None)
    assert ids(again) == [n.id for n in photos.search(data, k=4, layer="conv3_3").neighbours]
    shown = client.get(f"/api/images/{query['id']}/picture")
    assert Image.open(io.BytesIO(shown.content)).size == (80, 72)


def test_an_upload_that_the_collection_has_is_found_first(client: TestClient, built: Path) -> None:
    photos = Collection.open(built / "my.index")
    found = client.post("/api/search", files={"image": photos.file(2).read_bytes()}).json()
    assert found["neighbours"][0]["distance"] == 0 and found["network_ms"] is None
    assert str(photos.ids[2]) in [n["id"] for n in found["neighbours"] if n["distance"] == 0]


def test_filters_and_what_they_leave(client: TestClient, built: Path) -> None:
    own = str(Collection.open(built / "my.index").ids[0])
    found = client.get("/api/search", params={"image": own, "label": HOSTILE, "k": 12}).json()
    assert {n["label"] for n in found["neighbours"]} == {HOSTILE} and 3 <= len(found["neighbours"]) <= 4
    other = client.get("/api/images", params={"label": "plain"}).json()["images"][0]["id"]
    for more, count in ({}, 11), ({"label": "plain"}, 3), ({"label": "plain", "radius": 2, "method": "cosine"}, 3):
        most = client.get("/api/search", params={"image": other, "k": 50, **more}).json()
        assert len(most["neighbours"]) == count
    none = client.get("/api/search", params={"image": own, "radius": 0, "method": "cosine"}).json()
    assert none["neighbours"] == [] and float(none["nearest"]) > 0
    within = client.get("/api/search", params={"image": own, "radius": 2, "method": "cosine"}).json()
    assert len(within["neighbours"]) == 11


def test_every_image_is_on_one_page(client: TestClient, built: Path) -> None:
    pages = [client.get("/api/images", params={"page": p, "size": 5}).json() for p in (1, 2, 3)]
    listed = [i for page in pages for i in page["images"]]
    assert sorted(i["id"] for i in listed) == Collection.open(built / "my.index").ids.tolist()
    assert [(i["label"], i["name"]) for i in listed] == sorted((i["label"], i["name"]) for i in listed)
    assert {(p["pages"], p["total"]) for p in pages} == {(3, 12)}
    plain = client.get("/api/images", params={"label": "plain"}).json()
    assert plain["total"] == 4 and {i["label"] for i in plain["images"]} == {"plain"}


def test_what_can_be_asked(client: TestClient) -> None:
    about = client.get("/api/collection").json()
    assert [m["name"] for m in about["methods"]] == ["topk", "sigmoid", "cosine", "lsh", "two-stage"]
    assert about["methods"][2]["layers"] == ["conv5_3-avg", "conv3_3-avg"]
    assert {entry["name"]: entry["images"] for entry in about["labels"]}[HOSTILE] == 4
    assert client.get("/api/images/random").json()["id"] in {
        i["id"] for i in client.get("/api/images").json()["images"]
    }


def test_the_map_is_that_of_a_singular_value_decomposition(client: TestClient, built: Path) -> None:
    photos = Collection.open(built / "my.index")
    found = client.get("/api/map", params={"layer": "conv3_3-avg"}).json()
    x = photos.codes("conv3_3-avg").astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    x -= x.mean(axis=0)
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    assert [p["id"] for p in found["points"]] == photos.ids.tolist()
    for axis, values in enumerate(([p["x"] for p in found["points"]], [p["y"] for p in found["points"]])):
        assert abs(np.corrcoef(values, u[:, axis])[0, 1]) == pytest.approx(1, abs=1e-4)
        assert (min(values), max(values)) == (0, 1)
        assert found["explained"][axis] == pytest.approx(s[axis] ** 2 / (s**2).sum(), rel=1e-4)


def test_a_large_map_is_a_sample(built: Path) -> None:
    with client_of(built / "my.index", map_images=5) as few:
        found = few.get("/api/map").json()
    assert len(found["points"]) == 5 and found["images"] == 12


def test_duplicates(client: TestClient) -> None:
    found = client.get("/api/duplicates", params={"method": "lsh", "radius": 64}).json()
    assert (found["groups"], found["images"], len(found["listed"][0]), found["sizes"]) == (1, 12, 12, [12])


def test_a_large_group_says_its_size_and_lists_a_part(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.web.questions._LISTED_IN_GROUP", 5)
    found = client.get("/api/duplicates", params={"method": "lsh", "radius": 64}).json()
    assert (found["images"], len(found["listed"][0]), found["sizes"]) == (12, 5, [12])


@pytest.mark.parametrize(
    ("path", "status", "sentence"),
    [
        ("/api/search?image=zz", 404, "no image of this collection has the id 'zz'"),
        ("/api/search?image=q123", 404, "this uploaded image is not kept any more"),
        ("/api/search", 422, "image: field required"),
        ("/api/search?image=ID&method=itp", 422, "no method 'itp'; allowed: topk, sigmoid"),
        ("/api/search?image=ID&layer=fc9", 422, "no layer 'fc9'; allowed: pool5-flatten, conv5_3-avg"),
        ("/api/search?image=ID&k=100000", 422, "k = 100000; allowed: 1 to "),
        ("/api/search?image=ID&k=0", 422, "k = 0"),
        ("/api/search?image=ID&k=many", 422, "k: input should be a valid integer"),
        ("/api/search?image=ID&radius=2.5", 422, "radius 2.5 among codes of"),
        ("/api/search?image=ID&radius=nan", 422, "radius nan among codes of"),
        ("/api/search?image=ID&radius=3&method=cosine", 422, "radius 3 of a cosine distance; allowed: 0 to 2"),
        ("/api/search?image=ID&radius=1&method=two-stage", 422, "orders a shortlist"),
        ("/api/search?image=ID&label=cow", 422, "no image has the label 'cow'"),
        ("/api/images?page=2", 404, "unknown page 2; the last one is 1"),
        ("/api/images?size=100000", 422, "allowed: 1 to 200"),
        ("/api/images/zz", 404, "has the id 'zz'"),
        ("/api/images/..%2f..%2fetc%2fpasswd/picture", 404, "nothing at this address"),
        ("/api/images/%00/picture", 404, "has the id"),
        ("/api/images/ID/picture?size=huge", 422, "size: input should be 'tile' or 'large'"),
        ("/api/map?layer=fc9", 422, "a map of layer 'fc9'; allowed: conv5_3-avg, conv3_3-avg"),
        ("/api/duplicates?method=cosine", 422, "which has no bits"),
        ("/api/duplicates?radius=-1", 422, "radius -1"),
        ("/static/../app.py", 404, "nothing at this address"),
        ("/static/%2e%2e/app.py", 404, "nothing at this address"),
        ("/static/..%2fapp.py", 404, "nothing at this address"),
        ("/nowhere", 404, "nothing at this address"),
    ],
)
def test_errors_are_a_status_and_a_sentence(client: TestClient, path: str, status: int, sentence: str) -> None:
    own = client.get("/api/images").json()["images"][0]["id"]
    answer = client.get(path.replace("ID", own))
    assert answer.status_code == status
    assert list(answer.json()) == ["error"] and sentence in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


def test_an_error_on_a_page_is_a_page(client: TestClient) -> None:
    answer = client.get("/<script>", headers={"accept": "text/html"})
    assert answer.status_code == 404 and "There is nothing" not in answer.text
    assert "there is nothing at this address" in answer.text and "<h1>404</h1>" in answer.text


def test_no_answer_tells_where_files_lie(client: TestClient, built: Path) -> None:
    own = client.get("/api/images").json()["images"][0]["id"]
    paths = ["/", "/docs", "/api/collection", "/api/status", "/api/images", f"/api/images/{own}", "/api/map"]
    paths += [f"/api/search?image={own}", "/api/duplicates?method=lsh&radius=64", "/api/openapi.json", "/api/images/zz"]
    for path in paths:
        answer = client.get(path)
        assert str(built) not in answer.text and str(built) not in json.dumps(dict(answer.headers)), path


def test_openapi_lists_what_there_is(client: TestClient) -> None:
    api = client.get("/api/openapi.json").json()
    assert set(api["paths"]) == {
        "/api/status", "/api/collection", "/api/images", "/api/images/random", "/api/images/{image_id}",
        "/api/images/{image_id}/picture", "/api/search", "/api/map", "/api/duplicates",
    }  # fmt: skip
    for verbs in api["paths"].values():
        assert all(verb["description"] for verb in verbs.values())
    for page in ("/", "/docs"):
        text = client.get(page).text
        assert "http://" not in text.replace("http://www.w3.org", "") and "https://" not in text
        assert "<script>" not in text and " style=" not in text and " onclick=" not in text


def test_an_empty_collection_and_one_image(world: Path) -> None:
    every = Collection.open(world / "my.index").ids.tolist()
    collection.remove(world / "my.index", every[1:])
    with client_of(world / "my.index") as alone:
        found = alone.get("/api/search", params={"image": every[0], "k": 1}).json()
        assert found["neighbours"] == [] and found["nearest"] is None
        assert alone.post("/api/search", files={"image": png(5)}).json()["neighbours"][0]["id"] == every[0]
        assert len(alone.get("/api/map").json()["points"]) == 1
    collection.remove(world / "my.index", every[:1])
    with client_of(world / "my.index") as empty:
        assert empty.get("/api/images").json()["total"] == 0
        assert empty.get("/api/map").json()["points"] == []
        assert empty.get("/api/duplicates").json()["groups"] == 0
        assert empty.get("/api/images/random").status_code == 404
        answer = empty.post("/api/search", files={"image": png(5)})
        assert answer.status_code == 422 and "the collection is empty" in answer.json()["error"]


def test_a_change_is_seen_and_an_index_that_is_gone_is_said(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.web.live._CHECK_S", 0.0)
    with client_of(world / "my.index") as found:
        upload = found.post("/api/search", files={"image": png(7)}).json()["query"]["id"]
        draw(world / "more" / "x" / "30.png", 30)
        collection.add(world / "my.index", world / "more")
        assert found.get("/api/status").json()["images"] == 13
        assert len(found.get("/api/search", params={"image": upload, "k": 13}).json()["neighbours"]) == 13
        (world / "my.index").rename(world / "away")
        answer = found.get("/api/images")
        assert answer.status_code == 503 and answer.headers["retry-after"]
        assert answer.json()["error"].startswith("my.index is not an index")
        (world / "away").rename(world / "my.index")
        assert found.get("/api/status").json()["images"] == 13


def test_answers_are_of_one_generation_while_it_changes(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.web.live._CHECK_S", 0.0)
    draw(world / "more" / "x" / "30.png", 30)
    own = str(Collection.open(world / "my.index").ids[0])
    valid = []
    for change in (None, collection.add):
        if change:
            change(world / "my.index", world / "more")
        photos = Collection.open(world / "my.index")
        valid.append((len(photos), [n.id for n in photos.search_id(own, k=11).neighbours]))
    extra = (set(Collection.open(world / "my.index").ids.tolist()) - set(valid[0][1]) - {own}).pop()
    stop = threading.Event()

    def changing() -> None:
        while not stop.is_set():
            collection.remove(world / "my.index", [extra])
            collection.add(world / "my.index", world / "more")

    with client_of(world / "my.index") as found:
        thread = threading.Thread(target=changing)
        thread.start()
        try:
            seen = [found.get("/api/search", params={"image": own, "k": 11}).json() for _ in range(40)]
        finally:
            stop.set()
            thread.join()
    assert all((one["images"], ids(one)) in valid for one in seen)


def test_damaged_weights_are_said_where_they_are_needed(world: Path) -> None:
    shutil.rmtree(world / "my.index" / "weights")
    with client_of(world / "my.index") as found:
        own = found.get("/api/images").json()["images"][0]["id"]
        assert found.get("/api/search", params={"image": own}).status_code == 200
        answer = found.post("/api/search", files={"image": png(88)})
        assert answer.status_code == 503 and str(world) not in answer.text and "my.index" in answer.json()["error"]


def test_the_index_and_what_it_finds(built: Path, tmp_path: Path, client: TestClient) -> None:
    exact = client.get("/api/collection").json()
    assert exact["index"] == {"kind": "exact", "exact": True, "recall_at_10": 1.0}
    assert {m["index"] for m in exact["methods"]} == {"exact"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CNNCODES_CACHE", str(built / "cache"))
        index = {"kind": "multihash", "tables": 4, "table_bits": 8}
        photos = collection.build(built / "photos", tmp_path / "my.index", hasher="lsh", index=index, **SMALL)
    with client_of(tmp_path / "my.index") as other:
        about = other.get("/api/collection").json()
        recall = collection.info(tmp_path / "my.index")["index"]["recall_at_10"]
        assert about["index"] == {"kind": "multihash", "exact": False, "recall_at_10": recall}
        assert {m["name"]: m["index"] for m in about["methods"]} == {
            **dict.fromkeys(("topk", "sigmoid", "cosine"), "exact"),
            **dict.fromkeys(("lsh", "two-stage"), "multihash"),
        }
        own = str(photos.ids[3])
        for asked, by in (
            ("", "multihash"),
            ("&exact=true", "exact"),
            ("&radius=7", "multihash"),
            ("&radius=8", "exact"),
        ):
            found = other.get(f"/api/search?image={own}&method=lsh{asked}").json()
            assert found["index"] == by
        assert other.get(f"/api/search?image={own}&method=lsh&exact=perhaps").status_code == 422


def test_the_next_generation_is_built_before_it_is_searched(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CNNCODES_CACHE", str(built / "cache"))
    index = {"kind": "hnsw"}
    photos = collection.build(built / "photos", tmp_path / "my.index", hasher="lsh", index=index, **SMALL)
    live = Live(tmp_path / "my.index", Where())
    collection.remove(tmp_path / "my.index", [str(photos.ids[0])])
    fresh = live._current().collection
    assert len(fresh) == len(photos) - 1
    assert fresh._saved.index.state.answering.is_made
