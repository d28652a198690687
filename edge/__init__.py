"""The box beside the scanner: takes DICOM, makes it durable, forwards it to central."""

import os

# Read by numpy when it loads: nobody here multiplies matrices, and its threads cost memory and stand in a fork's way.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
