"""The root of every error the two halves can hand each other, split by whether trying again can help."""

from __future__ import annotations


class ContractError(Exception):
    """A peer, a file or a person broke an agreement laid down in this package."""


class PermanentError(ContractError):
    """The same bytes will be refused again: trying again cannot help."""


class TransientError(ContractError):
    """Nothing is wrong with the bytes: the same call may succeed later."""
