"""Asking for an association with pynetdicom, and knowing whether the other side refused it.

pynetdicom forgets a refusal when the connection is closed again before the thread that asked goes on: that thread finds
no connection, and calls the association aborted. Somebody would then be told to look at a cable that is well.
"""

from __future__ import annotations

from collections.abc import Sequence

from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.pdu import A_ASSOCIATE_RJ
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation


def associate(
    ae: AE,
    host: str,
    port: int,
    called_ae_title: str,
    *,
    handlers: Sequence[evt.EventHandlerType] = (),
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
) -> tuple[Association, bool]:
    """The association, established or not, and whether an A-ASSOCIATE-RJ came (PS3.8 9.3.4)."""
    refused = False

    def look(event: evt.Event) -> None:
        nonlocal refused
        refused = refused or isinstance(event.pdu, A_ASSOCIATE_RJ)

    association = ae.associate(
        host,
        port,
        ae_title=called_ae_title,
        ext_neg=list(roles),
        evt_handlers=[*handlers, (evt.EVT_PDU_RECV, look)],
    )
    return association, refused
