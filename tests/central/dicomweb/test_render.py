from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import ExplicitVRLittleEndian

from central.dicomweb.errors import BadRequestError, NotAnImageError, UnavailableError
from central.dicomweb.render import Job, Renderer
from central.dicomweb.view_parameters import ViewParameters, Window, view_parameters
from tests.central.access.house import part10

PNG = "image/png"


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    with Renderer(1) as opened:
        yield opened  # type: ignore[misc]


def job(name: str, frame: int | None = None, view: ViewParameters | None = None) -> Job:
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str)
    syntax = dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID
    return Job(Path(path), syntax, frame, view or ViewParameters(PNG))


def cells(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture))).astype(int)


def ramp(tmp_path: Path, **changes: object) -> Path:
    """A 16 × 16 image with the values 0 to 255."""
    source = get_testdata_file("MR_small.dcm", download=False)
    assert isinstance(source, str)
    dataset: Dataset = dcmread(source)
    dataset.pop("DataSetTrailingPadding", None)
    dataset.Rows = dataset.Columns = 16
    dataset.PixelRepresentation = 0
    dataset.PixelData = np.arange(256, dtype="<u2").tobytes()
    for keyword in ("WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept"):
        dataset.pop(keyword, None)
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    path = tmp_path / "ramp.dcm"
    path.write_bytes(part10(dataset))
    return path


def drawn(renderer: Renderer, path: Path, window: Window | None = None) -> np.ndarray:
    view = ViewParameters(PNG, window)
    return cells(renderer.render(Job(path, ExplicitVRLittleEndian, None, view))).ravel()


def test_the_full_range_without_a_window(renderer: Renderer, tmp_path: Path) -> None:
    np.testing.assert_array_equal(drawn(renderer, ramp(tmp_path)), np.arange(256))


def test_monochrome1_is_the_other_way_round(renderer: Renderer, tmp_path: Path) -> None:
    path = ramp(tmp_path, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(drawn(renderer, path), np.arange(255, -1, -1))


def test_the_linear_window_of_the_standard(renderer: Renderer, tmp_path: Path) -> None:
    """PS3.3 C.11.2.1.2.1, example: centre 2048 and width 4096 map 0 to black and 4095 to white; here / 16."""
    grey = drawn(renderer, ramp(tmp_path, WindowCenter=128, WindowWidth=256))
    assert grey[0] == 0
    assert grey[255] == 255
    narrow = drawn(renderer, ramp(tmp_path, WindowCenter=100, WindowWidth=2))
    assert set(narrow[:99]) == {0}
    assert set(narrow[101:]) == {255}


def test_the_asked_window_wins_and_counts_rescaled_values(renderer: Renderer, tmp_path: Path) -> None:
    path = ramp(tmp_path, RescaleSlope=2, RescaleIntercept=-100, WindowCenter=0, WindowWidth=1)
    grey = drawn(renderer, path, Window(0, 100, "linear-exact"))
    assert grey[50] == 128  # 2 * 50 - 100 = 0, the centre
    assert set(grey[:26]) == {0}  # up to -50
    assert set(grey[75:]) == {255}  # from 50


def test_the_sigmoid_window(renderer: Renderer, tmp_path: Path) -> None:
    grey = drawn(renderer, ramp(tmp_path), Window(128, 100, "sigmoid"))
    assert grey[128] == 128
    assert grey[128 + 50] == round(255 / (1 + np.exp(-2)))


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("SC_rgb_dcmtk_+eb+cy+np.dcm", "SC_rgb.dcm"),
        ("SC_rgb_dcmtk_+eb+cr.dcm", "SC_rgb.dcm"),
        ("SC_ybr_full_422_uncompressed.dcm", "SC_rgb.dcm"),
        ("SC_rgb_rle_16bit.dcm", "SC_rgb.dcm"),
        ("SC_rgb_gdcm_KY.dcm", "SC_rgb.dcm"),
        ("SC_rgb_jls_lossy_sample.dcm", "SC_rgb.dcm"),
        ("SC_rgb_jpeg_gdcm.dcm", "SC_rgb.dcm"),
        ("OBXXXX1A_expb.dcm", "OBXXXX1A.dcm"),
        ("examples_jpeg2k.dcm", "US1_UNCR.dcm"),
    ],
)
def test_one_picture_in_many_colour_models_looks_the_same(
    renderer: Renderer, name: str, reference: str
) -> None:
    got, wanted = (cells(renderer.render(job(each))) for each in (name, reference))
    assert got.shape == wanted.shape
    assert abs(got - wanted).mean() < 4


def test_a_frame_and_the_middle_one(renderer: Renderer) -> None:
    pictures = [renderer.render(job("emri_small.dcm", frame)) for frame in (1, 6, None)]
    assert pictures[1] == pictures[2] != pictures[0]


def test_the_viewport_is_fitted_into(renderer: Renderer) -> None:
    view = ViewParameters("image/jpeg", viewport=(128, 128))
    picture = Image.open(io.BytesIO(renderer.render(job("examples_palette.dcm", view=view))))
    assert picture.format == "JPEG"
    assert picture.size == (128, 56)  # 800 × 350


def test_a_part_of_the_image_and_mirrored(renderer: Renderer) -> None:
    def drawn(**query: str) -> np.ndarray:  # type: ignore[type-arg]
        return cells(renderer.render(job("CT_small.dcm", view=view_parameters(query, PNG))))

    whole = drawn()
    assert (drawn(viewport="10,20,30,40,10,20") == whole[40:60, 30:40]).all()
    assert (drawn(viewport="10,20,30,40,-10,-20") == whole[40:60, 30:40][::-1, ::-1]).all()
    assert (drawn(viewport="28,128,100,,,") == whole[:, 100:]).all()
    assert (drawn(region="0.5,0.25,1.0,0.75") == whole[32:96, 64:]).all()
    assert drawn(viewport="20,20,0,0,10,5").shape[:2] == (10, 20)
    with pytest.raises(NotAnImageError, match="outside"):
        drawn(viewport="10,10,500,0,10,10")


def test_less_quality_takes_fewer_bytes(renderer: Renderer) -> None:
    sizes = [
        len(renderer.render(job("CT_small.dcm", view=view_parameters({"quality": quality}, "image/jpeg"))))
        for quality in ("10", "50", "90", "100")
    ]
    assert sizes == sorted(set(sizes))
    plain = renderer.render(job("CT_small.dcm", view=ViewParameters("image/jpeg")))
    assert len(plain) == sizes[2]


def test_central_does_not_load_the_codecs() -> None:
    code = "import sys, central.dicomweb; sys.exit('imagecodecs' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_killed_worker_is_replaced() -> None:
    with Renderer(1) as renderer:
        wanted = renderer.render(job("CT_small.dcm"))
        worker = renderer._idle.queue[0]
        os.kill(worker._process.pid, signal.SIGKILL)
        worker._process.join()
        assert renderer.render(job("CT_small.dcm")) == wanted


class Deadly(type(Path())):  # type: ignore[misc]
    """A path that ends the process that receives it, as a codec may that stumbles over an image."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return os._exit, (139,)


def test_a_worker_that_hangs_costs_that_job_only(tmp_path: Path) -> None:
    fifo = tmp_path / "never.dcm"
    os.mkfifo(fifo)  # opening it waits for ever, like a decoder in an endless loop
    with Renderer(1) as renderer:
        wanted = renderer.render(job("CT_small.dcm"))
        renderer._job_timeout_s = 0.3
        with pytest.raises(NotAnImageError, match="within"):
            renderer.render(Job(fifo, ExplicitVRLittleEndian, None, ViewParameters(PNG)))
        renderer._job_timeout_s = 30
        assert renderer.render(job("CT_small.dcm")) == wanted


def test_a_worker_that_dies_costs_that_job_only() -> None:
    with Renderer(1) as renderer:
        with pytest.raises(NotAnImageError, match="ended the program"):
            renderer.render(Job(Deadly("x"), ExplicitVRLittleEndian, None, ViewParameters(PNG)))
        assert renderer.render(job("CT_small.dcm"))


def test_a_memory_bomb_ends_in_a_refusal(renderer: Renderer, tmp_path: Path) -> None:
    path = ramp(tmp_path, Rows=65535, Columns=65535)
    with pytest.raises(NotAnImageError, match="too large"):
        renderer.render(Job(path, ExplicitVRLittleEndian, None, ViewParameters(PNG)))


def test_a_closed_renderer_says_so() -> None:
    renderer = Renderer(1)
    renderer.close()
    with pytest.raises(UnavailableError):
        renderer.render(job("CT_small.dcm"))


def test_a_missing_file_and_a_report_are_refused(renderer: Renderer, tmp_path: Path) -> None:
    with pytest.raises(NotAnImageError):
        renderer.render(job("test-SR.dcm"))
    with pytest.raises(NotAnImageError):
        renderer.render(Job(tmp_path / "gone.dcm", ExplicitVRLittleEndian, None, ViewParameters(PNG)))


@pytest.mark.parametrize(
    "query",
    [
        {"window": "1"},
        {"window": "a,b"},
        {"window": "1,0"},
        {"window": "nan,1"},
        {"window": "1,inf"},
        {"window": "1,2,cubic"},
        {"window": "1,2,linear,3"},
        {"viewport": "0,10"},
        {"viewport": "100000,10"},
        {"viewport": "1,2,3,4"},
        {"viewport": "x,y"},
        {"viewport": "9,9,-1,0,5,5"},
        {"viewport": "9,9,0,0,0,5"},
        {"viewport": "9,9,0,0,nan,5"},
        {"viewport": "9,9,0,0,5,5,5"},
        {"region": "0,0,1"},
        {"region": "0.5,0,0.5,1"},
        {"region": "0,0,1,1.1"},
        {"quality": "0"},
        {"quality": "101"},
        {"quality": "x"},
    ],
)
def test_view_parameters_that_are_none(query: dict[str, str]) -> None:
    with pytest.raises(BadRequestError):
        view_parameters(query, PNG)
