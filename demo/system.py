"""The whole system on one machine: broker, central, gateway and scanner, in the order in which they need each other.

Always true here: the programs are the real ones, started by their own command lines and configured by their own
files; accounts, pairing and enrolment go the way a person would go. Everything is idempotent, so a start in a
used state directory, or in one left by a crash, does only what is missing.
"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from pathlib import Path

from demo import phantom, sample
from demo.broker import broker_program, mosquitto_path
from demo.configuration import CENTRAL_AE_TITLE, GATEWAY_AE_TITLE, write_configuration
from demo.control import gateway_status
from demo.processes import Child, DemoError, Program, Say, run_once
from demo.programs import CENTRAL, EDGE
from demo.reader import Reader, signs_in
from demo.ready import BrokerReady, CentralReady, DicomAddress, GatewayReady, Ready
from demo.scanner import Instance, SendReport, find_instances, send
from demo.state import HOST, ROLES, Account, Ports, State


@dataclass(frozen=True)
class Options:
    """What is sent: the sample, the files of `send_folder` instead, or nothing."""

    with_sample: bool = True
    send_folder: Path | None = None


class System:
    def __init__(self, state: State, ports: Ports, options: Options, say: Say) -> None:
        self._state = state
        self._ports = ports
        self._options = options
        self._say = say
        self._children: list[Child] = []
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stop_sending = threading.Event()

    async def start(self) -> Ready:
        """Start everything, send what is to be sent, and return when central shows it.

        Raises
        ------
        DemoError : a program did not start or something was refused; the text says what to do.
        """
        self._ports.check_free()
        mosquitto = mosquitto_path()
        write_configuration(self._state, self._ports, broker_tls=mosquitto is not None)
        broker = await broker_program(self._state, self._ports, mosquitto)
        await self._run(broker)
        kind = "mosquitto" if mosquitto else "amqtt, as mosquitto is not installed,"
        self._say(f"broker: {kind} on {HOST}, port {self._ports.mqtt_watch}")
        central = await self._run(
            Program("central", [*CENTRAL, "serve", "--config", str(self._state.central_toml)])
        )
        self._say(f"central: {self._url}")
        await self._create_accounts()
        gateway = await self._run(Program("gateway", [*EDGE, "run", "--config", str(self._state.edge_toml)]))
        control_socket = Path(str(gateway.listening["control_socket"]))
        self._say(f"gateway: {GATEWAY_AE_TITLE} on {HOST}, port {self._ports.gateway_dicom}")
        await self._enrol(control_socket)
        await self._send()

        def ready() -> Ready:
            return Ready(
                GatewayReady(
                    HOST, self._ports.gateway_dicom, GATEWAY_AE_TITLE, str(control_socket), gateway.pid
                ),
                CentralReady(
                    self._url, central.pid, DicomAddress(HOST, self._ports.central_dicom, CENTRAL_AE_TITLE)
                ),
                BrokerReady(HOST, self._ports.mqtt_watch),
                {role: account.credentials() for role, account in self._state.accounts().items()},
            )

        for child in self._children:
            child.on_restart = lambda: self._keep_ready(ready())
        self._keep_ready(ready())
        return ready()

    async def failed(self) -> None:
        """Return never; raise DemoError as soon as one of the programs cannot be kept running."""
        await asyncio.shield(self._failure)

    async def stop(self) -> None:
        """Stop in order: the gateway finishes what it is receiving while central still answers it."""
        self._stop_sending.set()
        for child in reversed(self._children):
            await child.stop()

    def kill(self) -> None:
        for child in self._children:
            child.kill()

    @property
    def _url(self) -> str:
        return f"http://{HOST}:{self._ports.central_people}"

    def _keep_ready(self, ready: Ready) -> None:
        self._state.write("ready.json", ready.json() + "\n")

    def _note_failure(self, error: DemoError) -> None:
        if not self._failure.done():
            self._failure.set_exception(error)

    async def _run(self, program: Program) -> Child:
        child = Child(program, self._state.logs, self._say, self._note_failure)
        self._children.append(child)
        await child.start()
        return child

    async def _create_accounts(self) -> None:
        """One account a role, as far as an earlier start has not made them."""
        missing = [(role, a) for role, a in self._state.accounts().items() if not a.created]
        await asyncio.gather(*(self._create_account(role, account) for role, account in missing))
        self._say(
            f"accounts: {', '.join(ROLES)}; their passwords are in {self._state.root / 'accounts.json'}"
        )

    async def _create_account(self, role: str, account: Account) -> None:
        """The doctor refers, and the patient is, the generated study's."""
        belongs = {
            "doctor": ["--referring-physician", phantom.REFERRING_PHYSICIAN_NAME],
            "patient": ["--patient-id", phantom.PATIENT_ID, "--issuer", phantom.ISSUER_OF_PATIENT_ID],
        }
        command = [*CENTRAL, "user", "add", "--config", str(self._state.central_toml), account.username]
        try:
            await run_once(
                f"the account {account.username}",
                [*command, "--role", role, *belongs.get(role, [])],
                given=account.password + "\n",
            )
        except DemoError:
            # An earlier start may have been killed between making the account and noting it.
            if not await signs_in(self._url, account.credentials()):
                raise
        self._state.note_created(role)

    async def _enrol(self, control_socket: Path) -> None:
        """Pair and enrol, as a technician would: once, and anew when central or the broker has moved."""
        status = await gateway_status(control_socket)
        where = self._state.central_toml.read_text()
        if status.link.state == "not-enrolled" or self._state.enrolled_with() != where:
            printed = await run_once(
                "pairing",
                [*CENTRAL, "pair", "--config", str(self._state.central_toml), "--name", "demo"],
            )
            pairing = next((word for word in printed.split() if word.startswith("dicomnet-pair:")), None)
            if pairing is None:
                raise DemoError(f"dicomnet-central pair printed no pairing string: {printed.strip()}")
            await run_once("enrolment", [*EDGE, "enrol", "--config", str(self._state.edge_toml), pairing])
            self._state.note_enrolled_with(where)
            status = await gateway_status(control_socket)
        self._say(f"enrolled: the gateway is {status.gateway_id}")

    async def _send(self) -> None:
        instances = await self._instances()
        if not instances:
            return
        async with Reader(self._url, self._state.accounts()["radiologist"].credentials()) as reader:
            absent = await reader.missing(instances)
            if not absent:
                self._say(f"scanner: central has all {len(instances)} instances of an earlier start")
                return
            report = await asyncio.to_thread(self._send_blocking, absent)
            self._report(report)
            say_left = Milestones(self._say, "central shows {done} of {total} instances", len(absent))
            await reader.wait_for(report.acknowledged, lambda left: say_left(len(absent) - left))

    async def _instances(self) -> list[Instance]:
        if self._options.send_folder is not None:
            folder = self._options.send_folder
            instances, others = await asyncio.to_thread(find_instances, folder)
            self._say(f"scanner: {len(instances)} DICOM files in {folder}, {others} other files left out")
            return instances
        if not self._options.with_sample:
            return []
        say_made = Milestones(
            self._say, "sample: {done} of {total} slices computed", phantom.SLICES, step=0.5
        )
        return await asyncio.to_thread(
            lambda: [
                *sample.phantom_instances(self._state.root / "sample", say_made),
                *sample.packaged_instances(),
            ]
        )

    def _send_blocking(self, instances: list[Instance]) -> SendReport:
        return send(
            instances,
            (HOST, self._ports.gateway_dicom),
            GATEWAY_AE_TITLE,
            stop=self._stop_sending,
            progress=Milestones(
                self._say, "scanner: {done} of {total} instances acknowledged", len(instances)
            ),
        )

    def _report(self, report: SendReport) -> None:
        for refusal in report.refused[:10]:
            self._say(
                f"refused: {refusal.instance.path.name}, status 0x{refusal.status:04X} {refusal.comment}".rstrip()
            )
        if len(report.refused) > 10:
            self._say(f"refused: {len(report.refused) - 10} more")
        if report.unsent and not self._stop_sending.is_set():
            raise DemoError(
                f"{len(report.unsent)} instances were not acknowledged by the gateway; "
                f"{self._state.logs / 'gateway.log'} says why"
            )


class Milestones:
    """Says how far something is, once every `step` of the whole and at the end."""

    def __init__(self, say: Say, sentence: str, total: int, *, step: float = 0.25) -> None:
        self._say = say
        self._sentence = sentence
        self._total = total
        self._step = step
        self._next = step

    def __call__(self, done: int) -> None:
        share = done / self._total
        if share >= self._next or done == self._total:
            self._say(self._sentence.format(done=done, total=self._total))
            self._next = share + self._step if done < self._total else float("inf")
