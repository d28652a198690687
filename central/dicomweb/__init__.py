"""DICOMweb (PS3.18): QIDO-RS and WADO-RS on the archive, behind the policy and the audit record."""

from central.dicomweb.render import Renderer
from central.dicomweb.service import routes

__all__ = ["Renderer", "routes"]
