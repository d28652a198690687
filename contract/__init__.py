"""What edge and central agree on, owned by neither.

Everything here is bytes, names and shapes: no program logic, no I/O beyond the streams it is handed.
Imports the standard library, pydantic, cryptography and zstandard only.
"""
