"""The main job: what a scanner sends is seen at central, unchanged, by those who may see it and nobody else."""

from __future__ import annotations

import re
import threading
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import httpx
import pytest
from dicomweb_client import DICOMwebClient
from pydicom import Dataset, dcmread
from pydicom.uid import UID, generate_uid

from demo import phantom, sample
from demo.scanner import Instance, find_instances, read_instance, send
from tests.e2e.files import data_set_bytes, packaged_files
from tests.e2e.running import RunningDemo, run, wait_visible

pytestmark = [pytest.mark.timeout(600)]

# storescu proposes uncompressed syntaxes by itself; these make it propose a file's own.
STORESCU_PROPOSALS = {
    "1.2.840.10008.1.2": "-xi",
    "1.2.840.10008.1.2.1": "-xe",
    "1.2.840.10008.1.2.2": "-xb",
    "1.2.840.10008.1.2.1.99": "-xd",
    "1.2.840.10008.1.2.4.50": "-xy",
    "1.2.840.10008.1.2.4.51": "-xx",
    "1.2.840.10008.1.2.4.70": "-xs",
    "1.2.840.10008.1.2.4.80": "-xt",
    "1.2.840.10008.1.2.4.90": "-xv",
    "1.2.840.10008.1.2.4.91": "-xw",
    "1.2.840.10008.1.2.5": "-xr",
}


def by_study(instances: Iterable[Instance]) -> dict[str, set[str]]:
    studies: dict[str, set[str]] = defaultdict(set)
    for instance in instances:
        studies[instance.study_instance_uid].add(instance.sop_instance_uid)
    return dict(studies)


def send_all(demo: RunningDemo, instances: list[Instance]) -> list[str]:
    """Send with the demonstration's scanner; returns the SOP Instance UIDs that were refused."""
    report = send(instances, demo.dicom_address, demo.ae_title, stop=threading.Event())
    assert not report.unsent
    return [refusal.instance.sop_instance_uid for refusal in report.refused]


def retrieve(client: httpx.Client, instance: Instance, folder: Path) -> Path:
    """One instance by WADO-RS as a single part, as a file."""
    answer = client.get(instance_url(client, instance), headers={"Accept": "application/dicom"})
    assert answer.status_code == 200, f"{instance.path.name}: {answer.status_code} {answer.text[:300]}"
    path = folder / f"{instance.sop_instance_uid}.dcm"
    path.write_bytes(answer.content)
    return path


def instance_url(client: httpx.Client, instance: Instance) -> str:
    study = instance.study_instance_uid
    found = client.get(
        f"/dicom-web/studies/{study}/instances", params={"SOPInstanceUID": instance.sop_instance_uid}
    )
    series = found.json()[0]["0020000E"]["Value"][0]
    return f"/dicom-web/studies/{study}/series/{series}/instances/{instance.sop_instance_uid}"


def differences(sent: Dataset, back: Dataset) -> list[str]:
    """What differs, element by element.

    Group lengths and padding behind the last element are no content (PS3.5 7.2); DCMTK writes encapsulated pixels
    as OB where a file says OW against PS3.5 A.4.
    """

    def content(ds: Dataset) -> dict[int, object]:
        elements = (e for e in ds if e.tag.element != 0 and e.tag != 0xFFFCFFFC)
        return {int(e.tag): e.value if e.VR in ("OB", "OW") else e for e in elements}

    sent_elements, back_elements = content(sent), content(back)
    return [
        f"{tag:08X}"
        for tag in sorted(sent_elements.keys() | back_elements.keys())
        if sent_elements.get(tag) != back_elements.get(tag)
    ]


def test_every_packaged_file_comes_back_byte_for_byte(demo: RunningDemo, tmp_path: Path) -> None:
    """Sent in its own transfer syntax; what does not name itself is refused and disturbs nothing."""
    files = list(packaged_files(tmp_path))
    assert len({file.instance.transfer_syntax_uid for file in files}) >= 11
    refused = send_all(demo, [file.instance for file in files])
    unidentified = {file.instance.sop_instance_uid for file in files if not file.identified}
    assert set(refused) == unidentified
    taken = [file.instance for file in files if file.identified]
    back = tmp_path / "back"
    back.mkdir()
    with demo.client("radiologist") as client:
        wait_visible(client, by_study(taken))
        for instance in taken:
            returned = retrieve(client, instance, back)
            assert data_set_bytes(returned) == data_set_bytes(instance.path), instance.path.name
            meta = dcmread(returned, stop_before_pixels=True, specific_tags=[]).file_meta
            assert meta.TransferSyntaxUID == instance.transfer_syntax_uid


@pytest.mark.needs("dcmtk")
def test_storescu_sends_each_transfer_syntax(demo: RunningDemo, tmp_path: Path) -> None:
    """DCMTK decodes and encodes anew on its way, so the comparison is element by element."""
    by_syntax: dict[str, list[Instance]] = defaultdict(list)
    files = [file.instance for file in packaged_files(tmp_path) if file.identified]
    for instance in files:
        chosen = by_syntax[instance.transfer_syntax_uid]
        if len(chosen) < 3 and instance.path.stat().st_size < 1_000_000:
            chosen.append(_with_new_uid(instance, tmp_path))
    sent = []
    for syntax, instances in by_syntax.items():
        command = [
            "storescu",
            STORESCU_PROPOSALS[syntax],
            "-aec",
            demo.ae_title,
            *map(str, demo.dicom_address),
        ]
        result = run([*command, *(str(instance.path) for instance in instances)])
        assert result.returncode == 0, f"{UID(syntax).name}: {result.stdout}{result.stderr}"
        sent += instances
    with demo.client("radiologist") as client:
        wait_visible(client, by_study(sent))
        for instance in sent:
            returned = dcmread(retrieve(client, instance, tmp_path))
            assert returned.file_meta.TransferSyntaxUID == instance.transfer_syntax_uid
            assert differences(dcmread(instance.path), returned) == [], instance.path.name


def _with_new_uid(instance: Instance, folder: Path) -> Instance:
    """The same image as another instance, encoded by pydicom."""
    ds = dcmread(instance.path)
    uid = generate_uid(entropy_srcs=["storescu", instance.path.name])
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid
    path = folder / f"storescu-{instance.path.name}"
    ds.save_as(path)
    read = read_instance(path)
    assert read is not None
    return read


@pytest.mark.needs("dcmtk")
@pytest.mark.samples
def test_storescu_sends_real_series(demo: RunningDemo, samples: Path, tmp_path: Path) -> None:
    instances, _ = find_instances(samples)
    assert instances
    for folder in sorted({instance.path.parent for instance in instances}):
        run(
            [
                "storescu",
                "+sd",
                "+r",
                "-aec",
                demo.ae_title,
                *map(str, demo.dicom_address),
                str(folder),
            ]
        )
    with demo.client("radiologist") as client:
        wait_visible(client, by_study(instances))
    outside_reader = DICOMwebClient(
        f"{demo.url}/dicom-web", headers={"Authorization": f"Bearer {demo.token('radiologist')}"}
    )
    for study, uids in by_study(instances).items():
        returned = {str(ds.SOPInstanceUID): ds for ds in outside_reader.retrieve_study(study)}
        assert returned.keys() == uids
        for instance in instances:
            if instance.study_instance_uid == study:
                sent = dcmread(instance.path)
                assert differences(sent, returned[instance.sop_instance_uid]) == [], instance.path


@pytest.mark.needs("dcmtk")
def test_the_gateway_answers_echo(demo: RunningDemo) -> None:
    result = run(["echoscu", "-aec", demo.ae_title, *map(str, demo.dicom_address)])
    assert result.returncode == 0, result.stderr


@pytest.mark.needs("dcmtk")
def test_central_answers_echo(demo: RunningDemo) -> None:
    dicom = demo.ready["central"]["dicom"]
    result = run(["echoscu", "-aec", dicom["ae_title"], dicom["host"], str(dicom["port"])])
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def phantom_slice(demo: RunningDemo, tmp_path_factory: pytest.TempPathFactory) -> Instance:
    instance = read_instance(phantom.write_slice(tmp_path_factory.mktemp("phantom"), 40))
    assert instance is not None
    return instance


@pytest.fixture(scope="module")
def foreign(demo: RunningDemo, phantom_slice: Instance) -> Instance:
    foreign = next(i for i in sample.packaged_instances() if i.path.name == "reportsi.dcm")
    assert send_all(demo, [phantom_slice, foreign]) == []
    with demo.client("radiologist") as client:
        wait_visible(client, by_study([phantom_slice, foreign]))
    return foreign


class TestWhoSeesWhat:
    """The doctor and the patient of the demonstration belong to the phantom; the packaged MR to neither."""

    @pytest.mark.parametrize("role", ["doctor", "patient"])
    def test_own_study_and_no_other(
        self, demo: RunningDemo, phantom_slice: Instance, foreign: Instance, role: str, tmp_path: Path
    ) -> None:
        with demo.client("radiologist") as radiologist:
            foreign_url = instance_url(radiologist, foreign)
        with demo.client(role) as client:
            listed = {item["0020000D"]["Value"][0] for item in client.get("/dicom-web/studies").json()}
            assert listed == {phantom.STUDY_INSTANCE_UID}
            assert retrieve(client, phantom_slice, tmp_path).stat().st_size > 500_000
            refused = client.get(foreign_url)
            absent = client.get(re.sub(r"studies/[0-9.]+", "studies/2.25.1", foreign_url))
        assert refused.status_code == absent.status_code == 404
        assert refused.content == absent.content, "refused and absent must look alike"

    def test_the_admin_sees_no_images(
        self, demo: RunningDemo, phantom_slice: Instance, foreign: Instance
    ) -> None:
        with demo.client("radiologist") as radiologist:
            urls = [instance_url(radiologist, phantom_slice), instance_url(radiologist, foreign)]
        with demo.client("admin") as client:
            assert [client.get(url).status_code for url in urls] == [404, 404]

    def test_anonymous_gets_nothing(
        self, demo: RunningDemo, phantom_slice: Instance, foreign: Instance
    ) -> None:
        study = phantom_slice.study_instance_uid
        with demo.client("radiologist") as radiologist:
            url = instance_url(radiologist, phantom_slice)
        with demo.client(None) as client:
            api = ["/dicom-web/studies", f"/dicom-web/studies/{study}", url, f"{url}/rendered", "/api/me"]
            answers = {path: client.get(path).status_code for path in api}
            assert set(answers.values()) == {401}, answers
            for page in ("/", "/fleet", "/audit"):
                answer = client.get(page)
                assert answer.status_code in (302, 303, 307), page
                assert answer.headers["location"].startswith("/signin"), page
            assert client.get("/healthz").status_code == 200

    def test_a_wrong_password_is_refused(self, demo: RunningDemo) -> None:
        account = {**demo.ready["accounts"]["doctor"], "password": "not this one"}
        with demo.client(None) as client:
            answer = client.post("/api/auth/token", data={"grant_type": "password", **account})
        assert answer.status_code == 400
        assert answer.json()["error"] == "invalid_grant"
