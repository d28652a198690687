"""DICOM over the upper layer: C-ECHO for whoever calls, C-FIND for configured peers."""
