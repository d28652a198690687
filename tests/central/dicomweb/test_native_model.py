"""What is answered in XML is what is answered in JSON."""

from __future__ import annotations

from email.parser import BytesParser
from email.policy import HTTP
from xml.etree import ElementTree

import httpx
import pytest

from central.dicomweb.native_model import native_model
from tests.central.access.house import OTHER_STUDY, STUDY, House

SPACE = {"": "http://dicom.nema.org/PS3.19/models/NativeDICOM"}
XML = 'multipart/related; type="application/dicom+xml"'


def documents(answer: httpx.Response) -> list[ElementTree.Element]:
    assert answer.status_code == 200
    head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
    message = BytesParser(policy=HTTP).parsebytes(head + answer.content)
    parts = list(message.iter_parts())  # type: ignore[attr-defined]  # an EmailMessage, by the policy
    assert {part.get_content_type() for part in parts} == {"application/dicom+xml"}
    return [ElementTree.fromstring(part.get_payload(decode=True)) for part in parts]


def values(document: ElementTree.Element) -> dict[str, list[str]]:
    """Plain values by tag, at the top."""
    found = document.findall("DicomAttribute", SPACE)
    return {one.attrib["tag"]: [value.text or "" for value in one.findall("Value", SPACE)] for one in found}


@pytest.mark.parametrize(
    "path",
    [
        "/studies",
        f"/studies/{STUDY}/series",
        f"/studies/{STUDY}/series/1.2.9.1/instances",
        f"/studies/{STUDY}/metadata",
        f"/studies/{STUDY}/series/1.2.9.1/metadata",
        f"/studies/{OTHER_STUDY}/series/1.2.8.2/instances/1.2.8.2.1/metadata",
    ],
)
def test_xml_says_what_json_says(house: House, path: str) -> None:
    with house.client("radiologist") as client:
        said = client.get(f"/dicom-web{path}").json()
        found = documents(client.get(f"/dicom-web{path}", headers={"Accept": XML}))
    assert len(found) == len(said)
    for document, data_set in zip(found, said, strict=True):
        top = document.findall("DicomAttribute", SPACE)
        assert [one.attrib["vr"] for one in top] == [element["vr"] for element in data_set.values()]
        plain = {
            tag: [str(value) for value in element.get("Value", ()) if value is not None]
            for tag, element in data_set.items()
            if element["vr"] not in ("SQ", "PN") and not int(tag[:4], 16) % 2
        }
        assert plain.items() <= values(document).items()
        uris = [one.attrib["uri"] for one in document.iter(f"{{{SPACE['']}}}BulkData")]
        assert all(uri.startswith(house.base_url) for uri in uris)


def test_names_sequences_private_and_awkward_values() -> None:
    document = ElementTree.fromstring(
        native_model(
            {
                "00080005": {"vr": "CS", "Value": ["ISO_IR 192"]},
                "00090010": {"vr": "LO", "Value": ['A "creator" <']},
                "00091001": {"vr": "LO", "Value": ["x"]},
                "00100010": {
                    "vr": "PN",
                    "Value": [{"Alphabetic": "Yamada^Tarou^^Dr", "Ideographic": "山田^太郎"}, None],
                },
                "00104000": {"vr": "LT", "Value": ["a\r\nb\x1b & <c>"]},
                "00189345": {"vr": "FD"},
                "00400275": {"vr": "SQ", "Value": [{"00400009": {"vr": "SH", "Value": ["S1"]}}]},
            }
        )
    )
    attributes = {one.attrib["tag"]: one for one in document.findall("DicomAttribute", SPACE)}
    assert attributes["00090001"].attrib == {
        "tag": "00090001",
        "vr": "LO",
        "privateCreator": 'A "creator" <',
    }
    [name] = attributes["00100010"].findall("PersonName", SPACE)
    assert name.findtext("Alphabetic/FamilyName", "", SPACE) == "Yamada"
    assert name.findtext("Alphabetic/NamePrefix", "", SPACE) == "Dr"
    assert name.findtext("Ideographic/GivenName", "", SPACE) == "太郎"
    assert attributes["00104000"].findtext("Value", "", SPACE) == "a\r\nb & <c>"
    assert list(attributes["00189345"]) == []
    assert attributes["00400275"].findtext("Item/DicomAttribute/Value", "", SPACE) == "S1"
