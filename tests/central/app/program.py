"""`dicomnet-central` as a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

CENTRAL = [sys.executable, "-c", "import sys; from central.app import main; sys.exit(main())"]


@dataclass
class CentralProcess:
    """``serve`` on a configuration; its log lies beside it. As a context manager it is started and stopped."""

    config: Path
    process: subprocess.Popen[str] | None = None
    listening: dict[str, Any] = field(default_factory=dict)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def people_url(self) -> str:
        return f"http://127.0.0.1:{self.listening['people']['port']}"

    @property
    def gateways_url(self) -> str:
        return f"https://127.0.0.1:{self.listening['gateways']['port']}"

    def start(self) -> dict[str, Any]:
        """Until it accepts connections; what it says of its ports."""
        log = self.config.with_suffix(".log")
        with log.open("a") as errors:
            self.process = subprocess.Popen(
                [*CENTRAL, "serve", "--config", str(self.config)],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("LISTENING "), log.read_text()
        self.listening = json.loads(line.removeprefix("LISTENING "))
        return self.listening

    def stop(self, how: int = signal.SIGTERM) -> int:
        """The exit code."""
        assert self.process is not None
        self.process.send_signal(how)
        code = self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None
        return code

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None:
            self.stop()
