"""Interchange media: a study as a DICOM File-set (PS3.10) in a ZIP (PS3.12 Annex V)."""
