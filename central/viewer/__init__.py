"""The web viewer: a static page that reads the archive through DICOMweb with the person's own session."""
