"""The life of an object in the spool, as one table.

An object that is still arriving is a file without a label and has no state: without a row nobody was told
that it is safe. Every step is one transaction, guarded by the state it starts from, so two threads cannot
both take it.

| step        | from                     | to           | when                                               |
|-------------|--------------------------|--------------|----------------------------------------------------|
| commit      | (a file being written)   | ready        | the sealed file is durable; then success is answered |
| divert      | (a file being written)   | quarantined  | the data set could not be identified; failure is answered |
| claim       | ready, sending (lapsed)  | sending      | uplink takes it under a lease                      |
| release     | sending                  | ready        | the link failed; again later                       |
| acknowledge | sending                  | acknowledged | central's receipt was verified and is kept         |
| retain      | acknowledged             | retained     | the site wants it near for a while                 |
| owe         | acknowledged, retained   | owed         | another destination does not have it, or lost it   |
| settle      | owed                     | acknowledged | every other destination has it, or was given up    |
| free        | acknowledged, retained   | freed        | the file may go: its time or the room is over      |
| set aside   | sending                  | quarantined  | central refuses it for good; kept for a person     |
| requeue     | quarantined (answered)   | ready        | a person says: try again                           |
| evict       | quarantined (unanswered) | freed        | quarantine is over its bound; oldest first         |
| condemn     | ready, quarantined       | quarantined  | the disk has damaged or lost it; kept for a person |
| replace     | quarantined (damaged)    | freed        | central has receipted the same bytes, sent again   |
| lose        | owed                     | freed        | the disk has damaged or lost what central has      |
| recall      | acknowledged, owed, retained | ready    | central lost it after its receipt: it is sent again |
| miss        | freed                    | lost         | the same, and it is not here: its scanner has to send it |

A lost row goes when central has receipted the same instance, sent again, or when receipts of its age go.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """Where an object is; the value is what the index and the control socket show."""

    READY = "ready"
    SENDING = "sending"
    ACKNOWLEDGED = "acknowledged"
    OWED = "owed"
    RETAINED = "retained"
    FREED = "freed"
    QUARANTINED = "quarantined"
    LOST = "lost"


UNFREED = (
    State.READY,
    State.SENDING,
    State.ACKNOWLEDGED,
    State.OWED,
    State.RETAINED,
    State.QUARANTINED,
)
"""States whose file is on the disk."""

SAFE_HERE = (State.READY, State.SENDING, State.ACKNOWLEDGED, State.OWED, State.RETAINED)
"""States in which a resend of the same bytes adds nothing."""


@dataclass(frozen=True)
class Step:
    """One allowed move of an existing row.

    Attributes
    ----------
    answered : None, or what `success_answered` must be for the step to be allowed.
    """

    name: str
    from_states: tuple[State, ...]
    to: State
    answered: bool | None = None


RELEASE = Step("be released", (State.SENDING,), State.READY)
ACKNOWLEDGE = Step("be acknowledged", (State.SENDING,), State.ACKNOWLEDGED)
RETAIN = Step("be retained", (State.ACKNOWLEDGED,), State.RETAINED)
OWE = Step("be owed", (State.ACKNOWLEDGED, State.RETAINED), State.OWED)
SETTLE = Step("be settled", (State.OWED,), State.ACKNOWLEDGED)
FREE = Step("be freed", (State.ACKNOWLEDGED, State.RETAINED), State.FREED)
SET_ASIDE = Step("be set aside", (State.SENDING,), State.QUARANTINED)
REQUEUE = Step("be queued again", (State.QUARANTINED,), State.READY, answered=True)
EVICT = Step("be evicted", (State.QUARANTINED,), State.FREED, answered=False)
CONDEMN = Step("be condemned", (State.READY, State.QUARANTINED), State.QUARANTINED)
REPLACE = Step("be replaced", (State.QUARANTINED,), State.FREED)
LOSE = Step("be lost", (State.OWED,), State.FREED)
RECALL = Step("be recalled", (State.ACKNOWLEDGED, State.OWED, State.RETAINED), State.READY)
MISS = Step("be missed", (State.FREED,), State.LOST)

FREED_IF_LOST = {State.ACKNOWLEDGED: FREE, State.RETAINED: FREE, State.OWED: LOSE}
"""The step for what the disk has damaged or lost and central has: nothing is left to be kept for anybody."""
