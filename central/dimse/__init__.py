"""DICOM over the upper layer: central's application entity for configured peers, and C-ECHO for whoever calls."""
