"""The broker of a demonstration on a machine without mosquitto: amqtt, plain, on loopback only.

amqtt checks neither certificates nor topics well enough for anything else (docs/decisions); a real installation
runs mosquitto with the configuration that `dicomnet-central mqtt-config` writes. Keeps nothing on disk: after a
restart the gateway's reconnect publishes its retained state again.
"""

from __future__ import annotations

import asyncio
import signal
import sys

from amqtt.broker import Broker

HOST = "127.0.0.1"


async def _serve(port: int) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    broker = Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"{HOST}:{port}"}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
    )
    await broker.start()
    await stopped.wait()
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
