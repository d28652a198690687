"""`dicomnet`: commands for the whole system. `dicomnet demo` runs it on this machine.

Standard output carries the progress and, last, the READY line; faults go to standard error. Exit codes: 0 after
Ctrl-C or SIGTERM, 1 when the demonstration could not go on, 2 for a wrong command line.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

from demo.processes import DemoError
from demo.ready import Ready
from demo.state import Ports, State
from demo.system import Options, System

DEFAULT_STATE = Path("var/demo")
DEFAULT_BASE_PORT = 11112


def main() -> None:
    """Entry point of the console script."""
    arguments = _parser().parse_args()
    sys.exit(asyncio.run(_demo(arguments)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dicomnet",
        description="Commands for the whole DICOM network; each program has its own command too.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    demo = commands.add_parser(
        "demo",
        help="run broker, central, a gateway and a simulated scanner on this machine",
        description="Starts an MQTT broker, central and one gateway on 127.0.0.1, lets a simulated scanner send a "
        "study, prints READY with everything needed to use the system, and stays until Ctrl-C.",
    )
    demo.add_argument(
        "--state",
        type=Path,
        default=DEFAULT_STATE,
        metavar="DIR",
        help="where everything is kept; a later start goes on from there (default: %(default)s)",
    )
    demo.add_argument(
        "--base-port",
        type=_base_port,
        default=DEFAULT_BASE_PORT,
        metavar="N",
        help="first of six TCP ports: N gateway's DICOM, N+1 web, N+2 central's DICOM, N+3 MQTT to watch, "
        "N+4 MQTT for gateways, N+5 central for gateways (default: %(default)s)",
    )
    what = demo.add_mutually_exclusive_group()
    what.add_argument(
        "--send", type=_folder, metavar="DIR", help="send the DICOM files below DIR instead of the sample"
    )
    what.add_argument("--no-sample", action="store_true", help="send nothing")
    demo.add_argument("--json-only", action="store_true", help="print nothing but the READY line")
    return parser


def _base_port(text: str) -> int:
    port = int(text)
    if not 1024 <= port <= 65530:
        raise argparse.ArgumentTypeError("a number from 1024 to 65530")
    return port


def _folder(text: str) -> Path:
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not a directory")
    return path


async def _demo(arguments: argparse.Namespace) -> int:
    def say(sentence: str) -> None:
        if not arguments.json_only:
            _print(f"  {sentence}")

    try:
        state = State.open(arguments.state)
    except DemoError as error:
        print(f"dicomnet demo: {error}", file=sys.stderr)
        return 1
    options = Options(with_sample=not arguments.no_sample, send_folder=arguments.send)
    system = System(state, Ports.from_base(arguments.base_port), options, say)
    signals = _Signals(system)
    starting = asyncio.create_task(_start(system, arguments.json_only))
    endings = (asyncio.create_task(system.failed()), asyncio.create_task(signals.first.wait()))
    exit_code = 0
    try:
        await asyncio.wait((starting, *endings), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            await asyncio.wait(endings, return_when=asyncio.FIRST_COMPLETED)
        if signals.first.is_set():
            say("stopping")
        else:
            endings[0].result()
    except DemoError as error:
        print(f"dicomnet demo: {error}", file=sys.stderr)
        exit_code = 1
    finally:
        for task in (starting, *endings):
            task.cancel()
        await asyncio.gather(starting, *endings, return_exceptions=True)
        await system.stop()
    if exit_code == 0:
        say("stopped; the next start goes on from here")
    return exit_code


class _Signals:
    """SIGINT and SIGTERM: the first asks everything to stop in order, a second one ends the programs at once."""

    def __init__(self, system: System) -> None:
        self.first = asyncio.Event()
        self._system = system
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._receive)

    def _receive(self) -> None:
        if self.first.is_set():
            self._system.kill()
        self.first.set()


async def _start(system: System, json_only: bool) -> None:
    ready = await system.start()
    if not json_only:
        _print(_welcome(ready))
    _print(f"READY {ready.json()}")


def _welcome(ready: Ready) -> str:
    doctor = ready.accounts["radiologist"]
    gateway = ready.gateway
    return (
        f"\n  Look at it:    {ready.central.url}/ as {doctor.username}, password {doctor.password}\n"
        f"  Send to it:    storescu -aec {gateway.ae_title} +sd +r {gateway.host} {gateway.port} DIR\n"
        f"  On the box:    dicomnet-tui --socket {gateway.control_socket}\n"
        "  Stop it:       Ctrl-C\n"
    )


def _print(line: str) -> None:
    """Print at once; when nobody reads any more, the system goes on without words."""
    with contextlib.suppress(BrokenPipeError):
        try:
            print(line, flush=True)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
