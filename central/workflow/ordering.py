"""What an order says about who looks after its study: heeded when it is put into the worklist.

The requesting physician (0032,1032) and the referring physician (0008,0090) have the study assigned to them, where they
have an account as a doctor of that institution; the requesting service (0032,1033) becomes the study's department.
Always true: an assignment is on record before it holds; an order that is taken out changes nothing, since the images
may be there already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from central.access.assignments import Assignments
from central.archive.receiving import Receiving
from central.workflow.data_sets import Scheduled


class Ordering:
    """Over what access and archive keep. Safe from any thread."""

    def __init__(self, assignments: Assignments, archive: Receiving) -> None:
        self._assignments = assignments
        self._archive = archive

    def heed(
        self,
        scheduled: Scheduled,
        *,
        institution: str,
        made_by: str,
        announce: Callable[[Sequence[str]], None],
    ) -> None:
        """Let the order's people reach its study.

        Parameters
        ----------
        announce : puts on record who is about to have the study, by username; what it raises leaves all as it was.
        """
        self._assignments.assign_by_order(
            scheduled.study_instance_uid,
            scheduled.physician_names,
            institution=institution,
            made_by=made_by,
            announce=announce,
        )
        self._archive.expect_order(scheduled.study_instance_uid, institution, scheduled.requesting_service)
