"""What is done otherwise for scanners that need it: profiles, as data, chosen by scanner or by implementation.

Every field is applied somewhere in this room; a profile changes how a peer is spoken to, never what is kept of it.
The profiles of the box are in quirks.toml beside this module; `[quirks.<name>]` of the configuration adds to them,
or replaces one of the same name.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, TypeAdapter

from contract.errors import ContractError
from contract.identifiers import check_uid
from contract.settings import Section

_LEAST_PDU_BYTES = 4096


def _uid(value: str) -> str:
    try:
        return check_uid(value)
    except ContractError as error:
        raise ValueError(str(error)) from error


Uid = Annotated[str, AfterValidator(_uid)]


class Quirks(Section):
    """One profile. The defaults are what every other scanner gets."""

    implementation_class_uids: list[Uid] = Field(
        default=[],
        max_length=64,
        description="Applies to peers with one of these Implementation Class UIDs, unless their entry names a profile",
    )
    implementation_version_names: list[str] = Field(
        default=[],
        max_length=64,
        description="Applies to peers with such an Implementation Version Name, too; * stands for anything",
    )
    preferred_transfer_syntaxes: list[Uid] = Field(
        default=[],
        max_length=64,
        description="Transfer syntaxes taken before any other that is proposed beside them, best first",
    )
    max_pdu_bytes: int | None = Field(
        default=None,
        ge=_LEAST_PDU_BYTES,
        le=524_288,
        description="Largest PDU announced to it, in bytes; without it gateway.max_pdu_bytes, which it cannot exceed",
    )
    accept_any_called_ae_title: bool = Field(
        default=False, description="Whatever AE title it calls is taken for this box's"
    )
    omit_role_selection_answer: bool = Field(
        default=False, description="Its role selection items are not answered; it is SCU, as without them"
    )
    omit_error_comment: bool = Field(
        default=False, description="Answers carry no Error Comment (0000,0902), only the status"
    )
    commitment_reply: Literal["auto", "same", "new"] = Field(
        default="auto",
        description="Where its storage commitment report goes: same: at once on the association that asked, while it "
        "is open; new: never on that one; auto: on it, if it is still open after half a second",
    )

    def matches(self, implementation_class_uid: str, implementation_version_name: str) -> bool:
        """True if this profile asks for such an implementation (PS3.7 Annex D.3.3.2)."""
        return implementation_class_uid in self.implementation_class_uids or any(
            fnmatchcase(implementation_version_name, pattern) for pattern in self.implementation_version_names
        )


NO_QUIRKS = Quirks()


@cache
def packaged_profiles() -> Mapping[str, Quirks]:
    """The profiles that come with the box, by name."""
    text = files(__package__).joinpath("quirks.toml").read_text(encoding="utf-8")
    return TypeAdapter(dict[str, Quirks]).validate_python(tomllib.loads(text))


def profiles(configured: Mapping[str, Quirks]) -> dict[str, Quirks]:
    """Those of the configuration, which match first and win over one of the same name, then the packaged ones."""
    return {
        **configured,
        **{name: one for name, one in packaged_profiles().items() if name not in configured},
    }


def choose(
    known: Mapping[str, Quirks],
    name: str | None,
    *,
    implementation_class_uid: str,
    implementation_version_name: str,
) -> Quirks:
    """The profile called `name`; without a name the first that matches the implementation, else none.

    Raises
    ------
    KeyError : no profile has that name; names are checked where they are read.
    """
    if name is not None:
        return known[name]
    for profile in known.values():
        if profile.matches(implementation_class_uid, implementation_version_name):
            return profile
    return NO_QUIRKS
