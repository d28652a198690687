"""What enters the archive as a whole: folders and ZIP files of DICOM, and the studies of another archive."""
