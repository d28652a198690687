"""DICOM in: what a scanner talks to. Takes C-ECHO and C-STORE, and hands the bytes on as they were sent."""
