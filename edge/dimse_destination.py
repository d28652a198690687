"""A destination that takes C-STORE: the gateway's association behind the uplink's courier.

Here the two rooms are fitted together, which know nothing of each other.
"""

from __future__ import annotations

from edge.buffer.deliveries import Delivery
from edge.gateway.calling import CallFailedError
from edge.gateway.errors import GatewayError
from edge.gateway.negotiation import Context
from edge.gateway.store_scu import ContextNotTakenError, StoreScu
from edge.uplink.courier import Source
from edge.uplink.verdicts import Outcome, Verdict, judge_status


class DimseDestination:
    """A `Destination` of edge.uplink.courier."""

    def __init__(self, scu: StoreScu) -> None:
        self._scu = scu

    def send(self, delivery: Delivery, part10: Source) -> Outcome:
        context = Context(delivery.sop_class_uid, delivery.transfer_syntax_uid)
        try:
            status = self._scu.store(context, delivery.sop_instance_uid, part10)
        except CallFailedError as error:
            return Outcome(Verdict.AWAY, str(error))
        except ContextNotTakenError as error:
            return Outcome(Verdict.REFUSED, str(error))
        except GatewayError as error:
            return Outcome(Verdict.LATER, str(error))
        return judge_status(status)

    def rest(self) -> None:
        self._scu.rest()
