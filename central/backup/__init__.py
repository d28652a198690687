"""A whole central in a folder, and back: index, audit record, keys and every object."""
