"""DICOMweb (PS3.18): QIDO-RS, WADO-RS and STOW-RS on the archive, behind the policy and the audit record."""

from central.dicomweb.deposit import DepositLimits
from central.dicomweb.render import Renderer
from central.dicomweb.service import at_once, routes

__all__ = ["DepositLimits", "Renderer", "at_once", "routes"]
