"""What the service says of itself is what it does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import pytest
from starlette.routing import Mount, Route

from central.dicomweb.transactions import TRANSACTIONS
from central.dicomweb.view_parameters import MAX_VIEWPORT
from tests.central.access.house import STUDY, House

SPACE = {"w": "http://wadl.dev.java.net/2009/02"}


@pytest.fixture(scope="module")
def document(house: House) -> dict[str, Any]:
    with house.client("patient") as client:
        answer = client.get("/dicom-web/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    found: dict[str, Any] = answer.json()
    return found


def test_the_table_is_the_router(house: House) -> None:
    [mount] = [route for route in house.app.routes if isinstance(route, Mount) and route.path == "/dicom-web"]
    routes = {
        (method, route.path)
        for route in mount.routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }
    listed = [(transaction.method, transaction.path) for transaction in TRANSACTIONS]
    assert set(listed) == routes
    assert len(listed) == len(routes)


def test_open_api_is_whole(document: dict[str, Any], house: House) -> None:
    assert document["openapi"].startswith("3.1")
    assert document["servers"] == [{"url": f"{house.base_url}/dicom-web"}]
    operations = [
        (path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    assert (
        len({operation["operationId"] for _, _, operation in operations})
        == len(operations)
        == len(TRANSACTIONS)
    )
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    for path, _, operation in operations:
        places = [each["name"] for each in operation["parameters"] if each["in"] == "path"]
        assert places == re.findall(r"\{(\w+)\}", path)
        assert all(each["required"] for each in operation["parameters"] if each["in"] == "path")
        assert "401" in operation["responses"]
        for response in operation["responses"].values():
            for content in response.get("content", {}).values():
                assert set(references(content)) <= known


def references(value: Any) -> Iterator[str]:
    """Every ``$ref`` in a part of the document."""
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for each in value.values():
            yield from references(each)


def test_each_get_answers_in_its_first_media_type(document: dict[str, Any], house: House) -> None:
    """As OpenAPI says it, asked of the server."""
    series = "1.2.9.0"
    places = {
        "study": STUDY,
        "series": series,
        "instance": f"{series}.1",
        "frames": "1",
        "frame": "1",
        "element": "7FE00010",
    }
    with house.client("radiologist") as client:
        for path, methods in document["paths"].items():
            if "get" not in methods or path == "/wado":
                continue
            [content] = [methods["get"]["responses"]["200"]["content"]]
            for media_type in list(content)[:2]:
                url = f"/dicom-web{path.format(**places)}"
                answer = client.get(url, headers={"Accept": media_type})
                assert answer.status_code == 200, (path, media_type, answer.text[:200])
                assert answer.headers["content-type"].startswith(media_type.partition("; boundary")[0]), path


def test_the_schemas_say_what_is_taken(document: dict[str, Any]) -> None:
    [viewport] = parameters(document, "/studies/{study}/rendered", "viewport")
    for said, fits in (("1,8192", True), ("8193,1", False), ("0,1", False), ("512,512", True), ("9,", False)):
        assert bool(re.search(viewport["schema"]["pattern"], said)) == fits, said
    assert f"{MAX_VIEWPORT},{MAX_VIEWPORT}" == "8192,8192"
    [uids] = parameters(document, "/studies", "StudyInstanceUID")
    for said, fits in (("1.2,1.2.3", True), ("", True), ("1" * 64, True), ("1.2\\" + "1" * 65, False)):
        assert bool(re.search(uids["schema"]["pattern"], said)) == fits, said
    assert not parameters(document, "/studies/{study}/series", "StudyInstanceUID")


def parameters(document: dict[str, Any], path: str, name: str) -> list[dict[str, Any]]:
    return [each for each in document["paths"][path]["get"]["parameters"] if each["name"] == name]


def test_capabilities_as_wadl(house: House) -> None:
    with house.client("patient") as client:
        answer = client.options("/dicom-web/", headers={"Accept": "application/vnd.sun.wadl+xml"})
        assert answer.headers["content-type"] == "application/vnd.sun.wadl+xml"
        assert client.options("/dicom-web/").content == answer.content
        assert client.options("/dicom-web/", headers={"Accept": "application/json"}).json()["openapi"]
        assert client.options("/dicom-web/", headers={"Accept": "text/plain"}).status_code == 406
    tree = ElementTree.fromstring(answer.content)
    [resources] = tree.findall("w:resources", SPACE)
    assert resources.get("base") == f"{house.base_url}/dicom-web/"

    def methods(node: ElementTree.Element, path: str) -> set[tuple[str, str]]:
        own = {(method.get("name", ""), path) for method in node.findall("w:method", SPACE)}
        return own.union(
            *(methods(each, f"{path}/{each.get('path')}") for each in node.findall("w:resource", SPACE))
        )

    assert methods(resources, "") == {
        (transaction.method, transaction.path.replace(":path}", "}"))
        for transaction in TRANSACTIONS
        if transaction.method != "OPTIONS"
    }
