"""Boxes as witnesses: they are given words now and then, and what they keep counts against a changed record."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from central.audit.errors import AuditUnavailableError
from central.audit.events import Action, AuditEvent
from central.database import Database, Sqlite
from central.fleet.heartbeats import Heartbeats
from central.fleet.witnesses import Witnesses
from contract.heartbeat import HEARTBEAT_PATH, STATUS, BoxState, Post, up_topic
from contract.witness import MAX_WORDS, WITNESS, WITNESS_INTERVAL_S, WITNESSED, Witness
from tests.central.app.house import Box, House, enrol
from tests.central.fleet.test_broker import online
from tests.central.fleet.test_heartbeats import T0, Scene, scene  # noqa: F401  # a fixture


def cut_off(db: Database, *, after_id: int) -> None:
    """As somebody does who has every right on the database."""
    for table in ("audit_record", "audit_checkpoint"):
        trigger = f"{table}_no_delete" if isinstance(db, Sqlite) else f"{table}_append_only ON {table}"
        db.execute_sql(f"DROP TRIGGER {trigger}")
    db.execute_sql(f"DELETE FROM audit_checkpoint WHERE last_id > {after_id}")
    db.execute_sql(f"DELETE FROM audit_record WHERE id > {after_id}")


def given(scene: Scene) -> list[str]:  # noqa: F811  # the fixture's value
    return [Witness.model_validate_json(down.payload).word for down in scene.said if down.below == WITNESS]


def test_a_box_is_given_a_word_now_and_then(scene: Scene) -> None:  # noqa: F811
    scene.status(BoxState.ONLINE)
    assert given(scene) == [], "there is none before the first record"
    scene.newest = "a.b.1"
    scene.elapsed_s += WITNESS_INTERVAL_S
    for _ in range(5):
        scene.status(BoxState.ONLINE)
    assert given(scene) == ["a.b.1"]
    assert scene.said[-1].retain
    scene.newest = "a.b.2"
    scene.elapsed_s += WITNESS_INTERVAL_S - 1
    scene.status(BoxState.ONLINE)
    assert given(scene) == ["a.b.1"]
    scene.elapsed_s += 1
    scene.status(BoxState.ONLINE)
    assert given(scene) == ["a.b.1", "a.b.2"]


def test_a_box_that_has_the_word_is_not_given_it_again(scene: Scene) -> None:  # noqa: F811
    scene.newest = "a.b.1"
    assert scene.hear(up_topic(scene.box, WITNESSED), b'{"words":["a.b.1"]}')
    scene.status(BoxState.ONLINE)
    assert given(scene) == []
    assert scene.heartbeats.witnessed() == [(scene.box, "a.b.1")]


@pytest.mark.parametrize(
    "said",
    [b"{", b'{"words":["<b>"]}', json.dumps({"words": ["a.b.c"] * (MAX_WORDS + 1)}).encode()],
)
def test_what_is_no_word_is_not_kept(scene: Scene, said: bytes) -> None:  # noqa: F811
    assert not scene.hear(up_topic(scene.box, WITNESSED), said)
    assert scene.heartbeats.witnessed() == []


def test_a_contradiction_is_an_alert_of_the_box(
    scene: Scene,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene.status(BoxState.ONLINE)
    scene.telemetry(T0)
    scene.hear(up_topic(scene.box, WITNESSED), b'{"words":["a.b.1"]}')
    [view] = scene.fleet.boxes()
    assert "audit-contradicted" not in [alert.kind for alert in view.alerts]
    scene.hear(up_topic(scene.box, WITNESSED), b'{"words":["a.b.1","lost.b.2"]}')
    [view] = scene.fleet.boxes()
    assert (view.alerts[0].kind, view.alerts[0].severity) == ("audit-contradicted", "critical")
    assert len([record for record in caplog.records if "contradicted by a box" in record.getMessage()]) == 1


def test_a_record_that_cannot_be_read_disturbs_no_heartbeat() -> None:
    def away(*_: object) -> list[str]:
        raise AuditUnavailableError("away")

    witnesses = Witnesses(away, away)  # type: ignore[arg-type]  # it raises, whatever it would return
    assert witnesses.due("gw", []) is None
    assert not witnesses.contradicts("gw", ["a.b.c"])


def test_a_rewritten_record_is_found_out_by_what_the_box_kept(tmp_path: Path) -> None:
    """From end to end: a real central, its words through its own listener, and its record cut off behind its back."""
    with House(tmp_path / "central") as house:
        box: Box = enrol(house, tmp_path / "box", "ct1")
        audit = house.central.foundation.audit
        for number in range(5):
            audit.record(AuditEvent(f"u{number}", "doctor", Action.VIEW, "success", "::1", "1.2.3"))
        audit.sign()

        def beat(*said: tuple[str, object]) -> list[str]:
            body = {"letters": [{"below": below, "payload": payload} for below, payload in said]}
            with httpx.Client(base_url=house.gateways_url, verify=box.tls(), timeout=60) as client:
                answer = Post.model_validate_json(client.post(HEARTBEAT_PATH, json=body).content)
            return [letter.payload["word"] for letter in answer.letters if letter.below == WITNESS]  # type: ignore[call-overload, index, misc]

        status = json.loads(online(box))
        [word] = beat((STATUS, status))
        assert beat((STATUS, status), (WITNESSED, {"words": [word]})) == []
        [view] = house.central.fleet.boxes()
        assert not view.contradicts_audit
        witnessed = [(box_id, kept) for box_id, kept in Heartbeats(house.central.foundation.db).witnessed()]
        assert witnessed == [("ct1", word)]
        assert audit.verify(witnessed).problems == []
        assert audit.verify(witnessed).witnessed == 1

        cut_off(audit._db, after_id=3)
        assert audit.verify().problems == [], "the record alone does not tell"
        assert "box" not in word
        assert "the end was cut off, with its checkpoints" in audit.verify(witnessed).problems[0]
        house.stop()
    with house:  # whatever central remembered is gone; the box says it again
        beat((STATUS, status), (WITNESSED, {"words": [word]}))
        [view] = house.central.fleet.boxes()
        assert view.alerts[0].kind == "audit-contradicted"
