"""What is said in Storage Commitment (PS3.4 Annex J.3): a request for some instances, a report on each of them."""

from __future__ import annotations

from collections.abc import Sequence

from contract.identifiers import InvalidIdentifierError, check_uid
from edge.buffer.commitments import MAX_INSTANCES, Failure, Reference
from edge.gateway.data_set import (
    DataSet,
    Element,
    UnreadableDataSetError,
    ascii_value,
    read_data_set,
    text_element,
    write_data_set,
)
from edge.gateway.errors import PermanentGatewayError

STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"
STORAGE_COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"
"""The one instance of the SOP class that every request is for (PS3.4 J.3.5)."""

REQUEST_COMMITMENT = 1  # action type id
ALL_COMMITTED, FAILURES_EXIST = 1, 2  # event type ids

_REFERENCED_SOP_CLASS_UID = 0x00081150
_REFERENCED_SOP_INSTANCE_UID = 0x00081155
_TRANSACTION_UID = 0x00081195
_FAILURE_REASON = 0x00081197
_FAILED_SOP_SEQUENCE = 0x00081198
_REFERENCED_SOP_SEQUENCE = 0x00081199


class BadRequestError(PermanentGatewayError):
    """The Action Information is not a request for commitment. The text says why, for an Error Comment."""


class TooManyInstancesError(PermanentGatewayError):
    """More instances than one request may name here."""

    def __init__(self) -> None:
        super().__init__(f"At most {MAX_INSTANCES} instances a request; send several")


def decode_request(data_set: bytes, transfer_syntax_uid: str) -> tuple[str, list[Reference]]:
    """Transaction UID and instances of an N-ACTION-RQ (PS3.4 Table J.3-1), each pair once.

    Raises
    ------
    BadRequestError, TooManyInstancesError
    """
    try:
        request = read_data_set(data_set, transfer_syntax_uid)
    except UnreadableDataSetError as error:
        raise BadRequestError(f"Request unreadable: {error}") from error
    transaction_uid = _uid(request, _TRANSACTION_UID, "Transaction UID")
    sequence = request.get(_REFERENCED_SOP_SEQUENCE, Element("SQ"))
    if not sequence.items:
        raise BadRequestError("The request has no Referenced SOP Sequence")
    if len(sequence.items) > MAX_INSTANCES:
        raise TooManyInstancesError
    found = dict.fromkeys(
        Reference(
            _uid(item, _REFERENCED_SOP_CLASS_UID, "Referenced SOP Class UID"),
            _uid(item, _REFERENCED_SOP_INSTANCE_UID, "Referenced SOP Instance UID"),
        )
        for item in sequence.items
    )
    return transaction_uid, list(found)


def encode_report(
    transaction_uid: str,
    committed: Sequence[Reference],
    failures: Sequence[Failure],
    transfer_syntax_uid: str,
) -> bytes:
    """The Event Information of an N-EVENT-REPORT-RQ (PS3.4 Table J.3-2); empty sequences are left out."""
    report = {_TRANSACTION_UID: text_element("UI", transaction_uid)}
    if failures:
        failed = tuple(
            {
                **_pair(failure.reference),
                _FAILURE_REASON: Element("US", failure.reason.to_bytes(2, "little")),
            }
            for failure in failures
        )
        report[_FAILED_SOP_SEQUENCE] = Element("SQ", items=failed)
    if committed:
        report[_REFERENCED_SOP_SEQUENCE] = Element("SQ", items=tuple(map(_pair, committed)))
    return write_data_set(report, transfer_syntax_uid)


def _pair(reference: Reference) -> DataSet:
    return {
        _REFERENCED_SOP_CLASS_UID: text_element("UI", reference.sop_class_uid),
        _REFERENCED_SOP_INSTANCE_UID: text_element("UI", reference.sop_instance_uid),
    }


def _uid(data_set: DataSet, tag: int, name: str) -> str:
    try:
        return check_uid(ascii_value(data_set, tag), name)
    except InvalidIdentifierError as error:
        raise BadRequestError(f"{name} is missing, or is not a UID") from error
