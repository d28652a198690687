"""What a technician reads about a scanner: its row, the lines below the table, and the line above."""

from __future__ import annotations

from typing import Final

from rich.text import Text

from contract.control import KnownScanner, ScannerEntry, ScannerList
from tui import words

_STANDING: Final = {
    "waiting": ("◌ waiting", "bold yellow"),
    "configured": ("● configured", "green"),
    "approved": ("● approved", "green"),
    "refused": ("✘ refused", "red"),
    "unlisted": ("○ unlisted", ""),
}
_UNKNOWN: Final = {
    "accept": "Unlisted scanners may send",
    "refuse": "Unlisted scanners are refused",
    "hold": "Unlisted scanners wait for approval",
}


def title(scanners: ScannerList) -> Text:
    """What unlisted scanners get, and how many wait; what is wrong with the list, if anything is."""
    if scanners.warning:
        return Text(f"✘ {words.plain(scanners.warning)}", "bold red")
    waiting = sum(one.standing == "waiting" for one in scanners.scanners)
    text = Text(f"{_UNKNOWN[scanners.unknown]}.")
    if waiting:
        text.append(f"  ◌ {waiting} waiting: y approves, n refuses", "bold yellow")
    return text


def detail(scanner: KnownScanner) -> Text:
    """What holds for it, how it called, and what went wrong last: a line each."""
    text = Text(words.plain(scanner.ae_title) or "(no AE title)", "bold")
    text.append(f"  {_how(scanner)}", "")
    if scanner.note:
        text.append(f"\n{words.plain(scanner.note)}", "yellow")
    if scanner.seen is not None and scanner.seen.silence == "silent":
        text.append("\nsilent for longer than is usual for it", "yellow")
    if scanner.last_error:
        text.append(f"\nlast refusal: {words.plain(scanner.last_error)}", "yellow")
    return text


def _how(scanner: KnownScanner) -> str:
    entry = scanner.entry
    if scanner.standing == "waiting":
        parts = [
            f"called {scanner.called_ae_title} from {scanner.address}, {words.count(scanner.attempts, 'time')}, "
            f"last {words.age(scanner.last_attempt_at_utc)} ago",
            f"certificate {scanner.certificate}" if scanner.certificate else "without TLS",
            scanner.certificate_sha256,
        ]
    elif entry is None:
        parts = [f"from {scanner.address}"]
    else:
        parts = [
            entry.name,
            f"from {', '.join(entry.addresses) or 'anywhere'}",
            f"calls {', '.join(entry.called_ae_titles)}" if entry.called_ae_titles else "",
            f"TLS {entry.tls}{_pinned(scanner, entry)}",
            f"quirks {entry.quirks}" if entry.quirks else "",
            f"C-ECHO to {entry.host} port {entry.port}" if entry.host else "no C-ECHO",
        ]
    return words.plain("; ".join(part for part in parts if part))


def _pinned(scanner: KnownScanner, entry: ScannerEntry) -> str:
    if not entry.certificate_sha256:
        return f", shows {scanner.certificate}" if scanner.certificate else ""
    if scanner.certificate_sha256 in ("", entry.certificate_sha256):
        return ", pinned"
    return f", pinned, but shows another certificate: {scanner.certificate}"


def cells(scanner: KnownScanner) -> list[Text]:
    """Its row in the table."""
    seen = scanner.seen
    rejected = seen.rejected if seen else 0
    silent = seen is not None and seen.silence == "silent"
    return [
        Text(*_STANDING[scanner.standing]),
        Text(words.plain(scanner.ae_title) or "(none)"),
        Text(words.plain(scanner.address)),
        Text(
            words.age(seen.last_store_at_utc) if seen else "never",
            "yellow" if silent else "",
            justify="right",
        ),
        Text(str(seen.instances if seen else 0), justify="right"),
        Text(str(rejected), "yellow" if rejected else "", justify="right"),
    ]
