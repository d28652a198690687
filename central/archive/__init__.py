"""The archive: identical Part 10 files by content address, and an index that finds them."""
