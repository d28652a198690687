"""The pages that people see: sign-in, study list, fleet, audit."""

from central.portal.boxes import BoxView, EquipmentView
from central.portal.service import routes

__all__ = ["BoxView", "EquipmentView", "routes"]
