"""The box beside the scanner: takes DICOM, makes it durable, forwards it to central."""
