"""What renditions are made from: the instances of a study that were granted, by the hashes of their contents.

A content never changes and its row neither, so the same sources are the same bytes for ever. An image that comes late,
another content that is read instead, or another institution's holding is another list of sources.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import NamedTuple

from central.archive.granted import granted_in
from central.archive.tables import Instance, Series, Study
from central.prepared import Prepared


class Source(NamedTuple):
    """One instance, as `held_by` has it. `rows` of pixels: None or 0 where it is no image."""

    id: int
    sha256: str
    series_instance_uid: str
    sop_instance_uid: str
    held_by: str
    rows: int | None


@dataclass(frozen=True)
class Sources:
    """Granted instances of one study, in the order of the study. The archive makes them from a Grant."""

    study_instance_uid: str
    instances: tuple[Source, ...]

    def only(self, instance: Source) -> Sources:
        """One of them."""
        assert instance in self.instances, "nothing is added to what was granted"
        return replace(self, instances=(instance,))


@functools.cache
def sources_in_study(*, all_patients: bool, holders: int, one_series: bool, one_instance: bool) -> Prepared:
    """As `granted.in_study`, with the columns of `Source`."""
    query = (
        Instance.select(
            Instance.id,
            Instance.sha256,
            Series.series_instance_uid,
            Instance.sop_instance_uid,
            Study.institution.alias("held_by"),
            Instance.rows,
        )
        .join(Series)
        .join(Study)
    )
    return granted_in(
        query, all_patients=all_patients, holders=holders, one_series=one_series, one_instance=one_instance
    )
