"""The append-only record of who looked at what: written before the bytes leave, or they do not leave."""
