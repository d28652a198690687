"""A TCP proxy that breaks lines on order: after so many bytes in a direction, silently or with a bang."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class CuttingProxy:
    """In front of `target_port` on loopback. One order at a time, carried out once.

    Attributes
    ----------
    carried : bytes that came from the client since the proxy began.
    """

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.carried = 0
        self.answered = 0
        self.cuts = 0
        self._pace_bytes_per_s: float | None = None
        self._lock = threading.Lock()
        self._cut_after: dict[str, int] = {}
        self._mute = False
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_after(self, size_bytes: int, *, answers: bool = False, mute: bool = False) -> None:
        """Reset the line once so many more bytes have passed in this direction.

        Parameters
        ----------
        mute : do not reset it: both ends keep a connection on which nothing comes any more.
        """
        with self._lock:
            self._cut_after["answers" if answers else "requests"] = size_bytes
            self._mute = mute

    def read_slowly(self, bytes_per_s: float) -> None:
        """Of connections from now on, with little room in between, so that the client notices."""
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 10)
        self._pace_bytes_per_s = bytes_per_s

    def close(self) -> None:
        self._listening.close()
        self.hang_up()

    def hang_up(self) -> None:
        """End every connection; new ones are served."""
        ended, self._open = self._open, []
        for connection in ended:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self.target_port))
                except OSError:
                    client.close()
                    continue
                self._open += [client, server]
                for source, sink, name in ((client, server, "requests"), (server, client, "answers")):
                    threading.Thread(target=self._pump, args=(source, sink, name), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, name: str) -> None:
        with suppress(OSError):
            while piece := source.recv(4096):
                if self._pace_bytes_per_s and name == "requests":
                    threading.Event().wait(len(piece) / self._pace_bytes_per_s)
                piece, cut = self._allowed(name, piece)
                sink.sendall(piece)
                if cut and self._mute:
                    while source.recv(4096):
                        pass  # until its end gives up
                if cut:
                    break
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _allowed(self, name: str, piece: bytes) -> tuple[bytes, bool]:
        """As much of `piece` as may pass, and whether the line is then cut."""
        with self._lock:
            left = self._cut_after.get(name)
            cut = left is not None and left <= len(piece)
            if left is not None:
                piece = piece[:left]
                self._cut_after[name] = left - len(piece)
            if cut:
                del self._cut_after[name]
                self.cuts += 1
            if name == "requests":
                self.carried += len(piece)
            else:
                self.answered += len(piece)
            return piece, cut
