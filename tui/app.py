"""The technician's screen for one box: five pages, refreshed by a worker that never blocks the keys.

Always true: everything shown came from the box within the last refresh, or the banner says that it did not;
the box goes on undisturbed whether this program runs, hangs or is closed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from rich.text import Text
from textual import on, work
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.css.query import NoMatches
from textual.widgets import DataTable, Footer, Input, Static, TabbedContent, TabPane

from contract.control import BoxStatus
from tui import words
from tui.client import BoxAwayError, BoxClient, BoxError
from tui.enrol import Enrol, standing_with
from tui.overview import Overview
from tui.priority import PriorityChoice
from tui.queue import Queue
from tui.scanner_form import ScannerForm
from tui.scanners import Scanners
from tui.studies import Studies

DEFAULT_SOCKET: Final = "/var/lib/dicomnet-edge/control.sock"
SOCKET_VARIABLE: Final = "DICOMNET_CONTROL_SOCKET"
REFRESH_S: Final = 1.5


class BoxApp(App[None]):
    """`dicomnet-tui`, attached to the box behind `client`."""

    TITLE = "DICOM Network"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS = [  # noqa: RUF012  # Textual's own declaration
        Binding("1", "page('overview')", "Overview"),
        Binding("2", "page('queue')", "Queue"),
        Binding("3", "page('scanners')", "Scanners"),
        Binding("4", "page('enrol')", "Enrol"),
        Binding("5", "page('studies')", "Studies", show=False),  # the footer is full, and the tab says it
        Binding("q", "quit", "Quit"),
    ]
    CSS = """
    #top { height: 1; background: $primary; color: $text; padding: 0 1; }
    #banner { display: none; height: auto; background: $error; color: $text; text-style: bold; padding: 0 1; }
    .away #banner { display: block; }
    .away TabbedContent { opacity: 50%; }
    TabPane { padding: 0; }
    Overview, Enrol, #queue-title, #queue-detail, #scanner-title, #scanner-detail, #echo-result, #scanner-keys,
    #study-title, #study-detail {
        padding: 0 1;
    }
    DataTable { height: 1fr; scrollbar-size-vertical: 1; }
    #queue-title, #study-title { height: 1; }
    #queue-detail, #study-detail { height: 4; }
    #scanner-title, #scanner-keys { height: 1; }
    #scanner-detail { height: 5; }
    #echo-result { height: 1; }
    #enrol-state, #enrol-result { margin: 1 0; }
    #enrol-central { display: none; width: 40; }
    .several #enrol-central { display: block; }
    EchoForm { align: center middle; }
    #echo-form { width: 60; height: auto; padding: 1 2; border: round $primary; background: $surface; }
    #echo-form Horizontal { height: auto; }
    #echo-fault { height: auto; color: $error; }
    ScannerForm, Confirm, PriorityChoice { align: center middle; }
    #scanner-form, #confirm, #priority {
        width: 70; height: auto; padding: 1 2; border: round $primary; background: $surface;
    }
    #scanner-form .buttons, #confirm .buttons { height: auto; margin: 1 0 0 0; }
    #scanner-form .row { height: 1; }
    #scanner-form .name { width: 13; }
    #scanner-form Select, #scanner-form Input { width: 1fr; }
    #scanner-form Button { margin: 0 2 0 0; }
    #scanner-fault { height: auto; max-height: 3; margin: 1 0 0 0; }
    """

    def __init__(self, client: BoxClient) -> None:
        super().__init__()
        self._client = client
        self._refresh_now = asyncio.Event()
        self._status: BoxStatus | None = None
        self._away = False

    def compose(self) -> ComposeResult:
        yield Static("", id="top")
        yield Static("", id="banner")
        with Vertical(), TabbedContent(initial="overview"):
            with TabPane("1 Overview", id="overview"):
                yield Overview(id="overview-page")
            with TabPane("2 Queue", id="queue"):
                yield Queue(id="queue-page")
            with TabPane("3 Scanners", id="scanners"):
                yield Scanners(id="scanners-page")
            with TabPane("4 Enrol", id="enrol"):
                yield Enrol(id="enrol-page")
            with TabPane("5 Studies", id="studies"):
                yield Studies(id="studies-page")
        yield Footer()

    def on_mount(self) -> None:
        self._show_top()
        self.query_one(Overview).focus()
        self._keep_fresh()

    @work(exclusive=True, group="refresh")
    async def _keep_fresh(self) -> None:
        with suppress(NoMatches):  # when the program closes, its widgets go before its workers
            while True:
                self._refresh_now.clear()
                try:
                    await self._refresh()
                except BoxError as error:
                    self._show_away(str(error))
                with suppress(TimeoutError):
                    async with asyncio.timeout(REFRESH_S):
                        await self._refresh_now.wait()

    async def _refresh(self) -> None:
        """Ask for the status, and for what the open page shows besides."""
        status = await self._client.status()
        first, self._status, self._away = self._status is None, status, False
        self.default_screen.remove_class("away")
        self._show_top()
        self.query_one(Overview).show(status)
        self.query_one(Enrol).show(status)
        page = self.query_one(TabbedContent).active
        if page == "queue":
            self.query_one(Queue).show(await self._client.queue())
        elif page == "scanners":
            self.query_one(Scanners).show(await self._client.scanners())
        elif page == "studies":
            self.query_one(Studies).show(await self._client.studies())
        if first and status.gateway_id is None:
            self.action_page("enrol")

    def _show_top(self) -> None:
        status = self._status
        text = Text("DICOM Network", "bold")
        if self._away:
            text.append("  ✘ the box is away")
        elif status is None:
            text.append("  ◌ looking for the box …")
        else:
            sign, _, word = words.LINK_WORDS[status.link.state]
            text.append(f"  {status.gateway_id or '(not enrolled)'}  {sign} {word}")
            if not status.accepting:
                text.append("  ✘ NOT ACCEPTING IMAGES", "bold")
        self.default_screen.query_one("#top", Static).update(text)

    def _show_away(self, reason: str) -> None:
        self._away = True
        self._show_top()
        main = self.default_screen
        main.add_class("away")
        main.query_one("#banner", Static).update(
            Text(f"✘ The box is away: {words.plain(reason)}. Trying again; what is below may be old.")
        )

    def action_page(self, page: str) -> None:
        tabs = self.query_one(TabbedContent)
        tabs.active = page
        # The page's own keys work only with the focus inside it.
        inside = tabs.get_pane(page).query(f"{Overview.__name__}, {DataTable.__name__}, {Input.__name__}")
        if inside:
            self.call_after_refresh(inside.first().focus)
        self._refresh_now.set()

    @on(TabbedContent.TabActivated)
    def _page_opened(self) -> None:
        self._refresh_now.set()

    @on(Overview.Pause)
    def _pause(self, message: Overview.Pause) -> None:
        async def ask() -> None:
            self.query_one(Overview).show(await self._client.pause(paused=message.paused))
            self.notify(
                "Nothing is sent to central until p is pressed again." if message.paused else "Sending."
            )

        self._tell(ask())

    @on(Queue.Requeue)
    def _requeue(self, message: Queue.Requeue) -> None:
        async def ask() -> None:
            self.query_one(Queue).show(await self._client.requeue(message.object_id, message.destination))
            self.notify("Queued again.")

        self._tell(ask())

    @on(Queue.Prioritise)
    def _prioritise(self, message: Queue.Prioritise) -> None:
        study = message.study_instance_uid

        def chosen(word: str | None) -> None:
            if word:
                self._tell(ask(word))

        async def ask(word: str) -> None:
            self.query_one(Queue).show(await self._client.prioritise(study, word))
            self.notify(f"The study is {word} from now on.")

        self.push_screen(PriorityChoice(study), chosen)

    @on(Queue.Hint)
    @on(Scanners.Hint)
    def _hint(self, message: Queue.Hint | Scanners.Hint) -> None:
        self.notify(words.plain(message.text), severity="warning", markup=False)

    @on(Scanners.Decide)
    def _decide(self, message: Scanners.Decide) -> None:
        async def ask() -> None:
            self.query_one(Scanners).show(await self._client.decide(message.method, message.caller))
            self.notify(words.plain(message.done), markup=False)

        self._tell(ask())

    @on(Scanners.Pin)
    def _pin(self, message: Scanners.Pin) -> None:
        async def ask() -> None:
            self.query_one(Scanners).show(await self._client.save_scanner(message.entry))
            self.notify(f"{words.plain(message.entry.ae_title)}: its certificate is pinned.", markup=False)

        self._tell(ask())

    @on(ScannerForm.Save)
    def _save_scanner(self, message: ScannerForm.Save) -> None:
        async def ask() -> None:
            try:
                scanners = await self._client.save_scanner(message.entry)
            except BoxError as error:
                if message.form.is_current:
                    message.form.show_fault(str(error))
                    return
                raise  # the form was left meanwhile: told where every failure is
            if message.form.is_current:
                message.form.dismiss()
            self.query_one(Scanners).show(scanners)
            self.notify(f"{words.plain(message.entry.ae_title)} may send.", markup=False)

        self._tell(ask())

    @on(Scanners.Echo)
    def _echo(self, message: Scanners.Echo) -> None:
        page = self.query_one(Scanners)
        page.show_echo(message.params, None)

        async def ask() -> None:
            try:
                page.show_echo(message.params, await self._client.echo(message.params))
            except BoxError as error:
                page.show_echo(message.params, None, str(error))

        self._tell(ask())

    @on(Enrol.Requested)
    def _enrol(self, message: Enrol.Requested) -> None:
        page = self.query_one(Enrol)

        async def ask() -> None:
            try:
                status = await self._client.enrol(message.pairing, message.central)
            except BoxError as error:
                page.show_result(str(error), ok=False)
                return
            gateway_id, link = standing_with(status, message.central)
            page.show_result(link.enrolment or f"enrolled as {gateway_id}", ok=True)
            self._refresh_now.set()

        self._tell(ask())

    @work(group="ask")
    async def _tell(self, question: Coroutine[Any, Any, None]) -> None:
        """Run a question beside the refresh; a failure is shown, never fatal."""
        with suppress(NoMatches):  # answered while the program was closing
            try:
                await question
            except BoxAwayError as error:
                self._show_away(str(error))
            except BoxError as error:
                self.notify(words.plain(str(error)), severity="error", markup=False)


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `dicomnet-tui`."""
    parser = argparse.ArgumentParser(
        prog="dicomnet-tui",
        description="A technician's screen for one DICOM Network box, over SSH at 80×24 or more.",
        epilog="Keys are shown at the bottom. It may be closed at any time: the box goes on.",
    )
    parser.add_argument(
        "--socket",
        type=Path,
        default=Path(os.environ.get(SOCKET_VARIABLE, DEFAULT_SOCKET)),
        metavar="PATH",
        help=f"the box's control socket (default: ${SOCKET_VARIABLE}, else {DEFAULT_SOCKET})",
    )
    options = parser.parse_args(arguments)
    BoxApp(BoxClient(options.socket)).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
