"""Out of the box: identity, forwarding against signed receipts, heartbeats."""
