"""The durable spool: what a scanner was told is safe lies here until central has signed for it."""
