"""A syslog server that others wrote takes our messages as they are: rsyslog, over TLS, knowing us by certificate."""

from __future__ import annotations

import subprocess
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from central.audit.events import MAX_DETAIL_CHARACTERS, Action
from central.audit.settings import AuditSettings
from tests.central.audit.repository import Papers, until
from tests.central.audit.test_syslog import Sender, actors, look
from tests.central.databases import open_record
from tests.peers_installed import program
from tests.ports import free_base_port

CONFIGURATION = """\
global(workDirectory="{folder}"
       maxMessageSize="64k"
       defaultNetstreamDriver="ossl"
       defaultNetstreamDriverCAFile="{ca}"
       defaultNetstreamDriverCertFile="{certificate}"
       defaultNetstreamDriverKeyFile="{key}")
module(load="imtcp" streamDriver.mode="1" streamDriver.authMode="x509/certvalid")
template(name="raw" type="string" string="%rawmsg%\\n")
ruleset(name="audit") {{ action(type="omfile" file="{folder}/messages" template="raw") }}
input(type="imtcp" port="{port}" address="127.0.0.1" ruleset="audit")
"""


@pytest.mark.needs("rsyslog")
def test_rsyslog_files_what_we_send(tmp_path: Path) -> None:
    papers, port = Papers(tmp_path / "papers"), free_base_port(1)
    certificate, key = papers.server("127.0.0.1")
    (tmp_path / "rsyslog.conf").write_text(
        CONFIGURATION.format(folder=tmp_path, ca=papers.ca, certificate=certificate, key=key, port=port)
    )
    ours, our_key = papers.client()
    settings = AuditSettings(
        syslog_host="127.0.0.1",
        syslog_port=port,
        syslog_ca=papers.ca,
        syslog_certificate=ours,
        syslog_key=our_key,
    )
    rsyslogd = program("rsyslogd")
    assert rsyslogd is not None
    with closing(open_record(tmp_path)) as audit:
        for number in range(149):
            audit.record(look(number))
        keys = "&" * MAX_DETAIL_CHARACTERS  # what makes the longest message
        audit.record(replace(look(149), action=Action.SIGN_IN_FAILED, study_instance_uid=None, detail=keys))
    command = [rsyslogd, "-n", "-i", str(tmp_path / "pid"), "-f", str(tmp_path / "rsyslog.conf")]
    with (tmp_path / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        try:
            with Sender(tmp_path, settings) as sender:
                until(lambda: sender.arrived() == 150)
        finally:
            server.terminate()
            server.wait(60)
    lines = (tmp_path / "messages").read_bytes().splitlines()
    assert actors(lines) == [f"user{number}" for number in range(150)], (tmp_path / "log").read_text()
