"""The whole system on one machine, started by its own command lines: `dicomnet demo`."""
