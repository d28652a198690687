"""Everything that goes to central over HTTPS goes through the hospital's proxy, still in central's own TLS."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edge.config import Settings
from edge.uplink.client import go_through
from edge.uplink.enrolment import enrol
from tests.line.conftest import Scene
from tests.line.tunnel import Tunnel


@pytest.fixture
def tunnel() -> Iterator[Tunnel]:
    made = Tunnel()
    go_through(made.url)
    yield made
    go_through(None)
    made.close()


def test_images_and_enrolment_go_through_the_proxy(scene: Scene, tunnel: Tunnel) -> None:
    for _ in range(3):
        scene.store()
    scene.forward()
    scene.wait()
    scene.check()
    assert set(tunnel.asked) == {f"127.0.0.1:{scene.proxy.port}"}
    enrol(scene.house.pairing())
    assert f"127.0.0.1:{scene.house.central.gateways.port}" in tunnel.asked


def test_a_proxy_that_is_away_is_a_line_that_is_down(scene: Scene, tunnel: Tunnel) -> None:
    tunnel.close()
    scene.store()
    scene.forward()
    scene.wait(lambda: scene.link.status().state == "waiting")
    assert "kept here" in scene.link.status().detail


@pytest.mark.parametrize(
    "url", ["proxy:3128", "https://proxy:3128", "http://proxy", "http://a b:1", "socks5://p:1"]
)
def test_only_a_proxy_of_the_right_kind_is_taken(url: str) -> None:
    with pytest.raises(ValueError, match="a proxy is http"):
        Settings.model_validate({"uplink": {"proxy": url}})
