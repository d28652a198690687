"""A small DICOMweb server over data sets in memory, for the viewer's own tests.

It says what PS3.18 says and nothing more, so that the viewer can be tried without the rest of central: real
DICOM, real frames, the real content security policy, a session that can end and frames that can fail.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from PIL import Image
from pydicom import DataElement, Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from central.viewer.delivery import routes

_STUDY_KEYWORDS = (
    "StudyDate", "StudyTime", "AccessionNumber", "StudyDescription", "PatientName", "PatientID",
    "PatientBirthDate", "PatientSex", "StudyInstanceUID",
)  # fmt: skip
_SERIES_KEYWORDS = ("Modality", "SeriesDescription", "SeriesInstanceUID", "SeriesNumber")


@dataclass
class Stand:
    """What the server holds, and how it behaves at the moment."""

    dist: Path
    datasets: list[Dataset] = field(default_factory=list)
    signed_in: bool = True
    #: Whether metadata say what the frames are coded in (0008,3002); a server need not.
    announces_transfer_syntax: bool = True
    #: SOP Instance UIDs whose frames cannot be had.
    broken: set[str] = field(default_factory=set)
    #: Paths asked for, in order.
    asked: list[str] = field(default_factory=list)
    origin: str = ""

    def reset(self, datasets: Iterable[Dataset] = ()) -> None:
        """Hold these data sets and nothing else, and behave."""
        self.datasets = list(datasets)
        self.signed_in = self.announces_transfer_syntax = True
        self.broken.clear()
        self.asked.clear()

    def viewer_url(self, study_instance_uid: str) -> str:
        return f"{self.origin}/viewer/?study={study_instance_uid}"

    def app(self) -> Starlette:
        root = "/dicom-web/studies"
        instance = root + "/{study}/series/{series}/instances/{sop}"
        return Starlette(
            routes=[
                Route("/signin", lambda _: PlainTextResponse("sign in")),
                Route(root, self._studies),
                Route(root + "/{study}/series", self._series),
                Route(root + "/{study}/series/{series}/metadata", self._metadata),
                Route(root + "/{study}/series/{series}/thumbnail", self._thumbnail),
                Route(instance + "/frames/{frame:int}", self._frame),
                *routes(self.dist),
            ],
            middleware=[Middleware(BaseHTTPMiddleware, dispatch=self._guard)],
        )

    async def _guard(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        self.asked.append(request.url.path)
        if request.url.path.startswith("/dicom-web") and not self.signed_in:
            return JSONResponse({"title": "sign in"}, status_code=401)
        return await call_next(request)

    def _studies(self, request: Request) -> Response:
        uid = request.query_params.get("StudyInstanceUID")
        found = [ds for ds in self.datasets if ds.StudyInstanceUID == uid][:1]
        return _dicom_json(_only(ds, _STUDY_KEYWORDS) for ds in found)

    def _series(self, request: Request) -> Response:
        series: dict[str, list[Dataset]] = {}
        for ds in self._of(study=request.path_params["study"]):
            series.setdefault(ds.SeriesInstanceUID, []).append(ds)
        answers = []
        for members in series.values():
            answer = _only(members[0], _SERIES_KEYWORDS)
            answer["00201209"] = {"vr": "IS", "Value": [len(members)]}
            answers.append(answer)
        return _dicom_json(answers)

    def _metadata(self, request: Request) -> Response:
        found = self._of(study=request.path_params["study"], series=request.path_params["series"])
        return _dicom_json(_metadata_of(ds, announce=self.announces_transfer_syntax) for ds in found)

    def _frame(self, request: Request) -> Response:
        names = request.path_params
        found = self._of(study=names["study"], series=names["series"], sop=names["sop"])
        if not found or names["sop"] in self.broken:
            return PlainTextResponse("no", status_code=500 if found else 404)
        body, syntax = frame_of(found[0], names["frame"])
        part = f"Content-Type: application/octet-stream; transfer-syntax={syntax}\r\n\r\n".encode()
        return Response(
            b"--edge\r\n" + part + body + b"\r\n--edge--\r\n",
            media_type='multipart/related; type="application/octet-stream"; boundary=edge',
        )

    def _thumbnail(self, request: Request) -> Response:
        found = self._of(study=request.path_params["study"], series=request.path_params["series"])
        pixels = found[len(found) // 2].pixel_array if found and "PixelData" in found[0] else None
        if pixels is None:
            return PlainTextResponse("no picture", status_code=406)
        if found[0].get("NumberOfFrames", 1) > 1:
            pixels = pixels[len(pixels) // 2]
        low, high = np.percentile(pixels, (1, 99.5))
        grey = np.clip((pixels.astype(float) - low) / max(1, high - low) * 255, 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(grey).save(file, "JPEG")
        return Response(file.getvalue(), media_type="image/jpeg")

    def _of(self, study: str, series: str | None = None, sop: str | None = None) -> list[Dataset]:
        return [
            ds
            for ds in self.datasets
            if ds.StudyInstanceUID == study
            and series in (None, ds.SeriesInstanceUID)
            and sop in (None, ds.SOPInstanceUID)
        ]


def frame_of(ds: Dataset, frame: int) -> tuple[bytes, str]:
    """One frame's bytes as WADO-RS sends them, and the transfer syntax they are in."""
    syntax = ds.file_meta.TransferSyntaxUID
    count = int(ds.get("NumberOfFrames", 1) or 1)
    if syntax.is_encapsulated:
        return list(generate_frames(ds.PixelData, number_of_frames=count))[frame - 1], syntax
    bits = ds.Rows * ds.Columns * ds.SamplesPerPixel * ds.BitsAllocated
    if ds.PhotometricInterpretation == "YBR_FULL_422":
        bits = bits * 2 // 3
    size = bits // 8
    pixels = ds.PixelData
    if syntax == ExplicitVRBigEndian:
        # Eight-bit pixels in OW are swapped by pairs as well (PS3.5 section 8.1.1).
        word = 2 if ds["PixelData"].VR == "OW" and ds.BitsAllocated == 8 else ds.BitsAllocated // 8
        pixels = np.frombuffer(pixels, dtype=f">u{word}").byteswap().tobytes()
    if syntax in (ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian):
        syntax = ExplicitVRLittleEndian
    return pixels[(frame - 1) * size : frame * size], syntax


@contextmanager
def serving(stand: Stand) -> Iterator[Stand]:
    """Run a stand on a free port of the loopback address for as long as the block lasts."""
    server = uvicorn.Server(uvicorn.Config(stand.app(), host="127.0.0.1", port=0, log_level="error"))
    started = threading.Event()
    startup = server.startup

    async def startup_and_tell(sockets: Any = None) -> None:
        await startup(sockets)
        started.set()

    server.startup = startup_and_tell  # type: ignore[method-assign]  # uvicorn has no event for this
    thread = threading.Thread(target=server.run, name="dicomweb-stand")
    thread.start()
    try:
        assert started.wait(60), "the stand did not start"
        port = server.servers[0].sockets[0].getsockname()[1]
        stand.origin = f"http://127.0.0.1:{port}"
        yield stand
    finally:
        server.should_exit = True
        thread.join(60)


def _metadata_of(ds: Dataset, *, announce: bool) -> dict[str, Any]:
    """Everything but pixels; what no JSON can hold is left out, as a server that must go on does."""
    found: dict[str, Any] = {}
    for element in ds:
        if element.tag.group == 0x7FE0:
            continue
        if ds.file_meta.TransferSyntaxUID == ExplicitVRBigEndian and element.VR == "OW":
            # In JSON binary values are little endian whatever the file is (PS3.18 section F.2.7).
            element = DataElement(element.tag, "OW", np.frombuffer(element.value, ">u2").byteswap().tobytes())
        try:
            found[f"{int(element.tag):08X}"] = element.to_json_dict(None, 1 << 20)
        except (ValueError, TypeError, AttributeError):
            continue
    if announce:
        found["00083002"] = {"vr": "UI", "Value": [str(ds.file_meta.TransferSyntaxUID)]}
    return found


def _only(ds: Dataset, keywords: Iterable[str]) -> dict[str, Any]:
    chosen = Dataset()
    for keyword in keywords:
        setattr(chosen, keyword, ds.get(keyword, ""))
    answer: dict[str, Any] = chosen.to_json_dict()
    return answer


def _dicom_json(answers: Iterable[dict[str, Any]]) -> Response:
    return JSONResponse(list(answers), media_type="application/dicom+json")
