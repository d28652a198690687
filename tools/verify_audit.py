#!/usr/bin/env python3
"""Verify an exported audit record without the program that wrote it: docs/formats/audit.md and nothing else.

    dicomnet-central audit key > audit.pem          once, kept where central's administrators cannot change it
    dicomnet-central audit export > audit.ndjson
    python verify_audit.py audit.ndjson audit.pem

Needs the package "cryptography" alone. Ends with 0 if nothing was changed, with 1 after naming what was.
"""

import base64
import hashlib
import json
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_public_key

FIELDS = [
    "id",
    "at_utc",
    "actor",
    "actor_role",
    "action",
    "outcome",
    "source_address",
    "study_instance_uid",
    "series_instance_uid",
    "sop_instance_uid",
    "detail",
]


def unpadded(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def signed_word(token, key, kind):
    """What is inside a JWS of this kind in compact form, or None if the key did not sign it."""
    try:
        head, payload, signature = token.split(".")
        key.verify(unpadded(signature), f"{head}.{payload}".encode())
    except (InvalidSignature, ValueError):
        return None
    header = json.loads(unpadded(head))
    if header.get("alg") != "EdDSA" or header.get("typ") != kind:
        return None
    return json.loads(unpadded(payload))


def verify(lines, key):
    """Yield a sentence for each thing that is wrong."""
    chain = hashlib.sha256(b"dicomnet audit chain 1").digest()
    last_id, chains, tokens = 0, {}, []
    for line in lines:
        row = json.loads(line)
        if "checkpoint" in row:
            tokens.append(row["checkpoint"])
            continue
        if "pruned" in row:  # records before this one were removed on purpose, and are in an older export
            word = signed_word(row["pruned"], key, "dicomnet-audit-pruned+jws")
            if word is None:
                yield "a word that records were pruned is not signed by this key"
            else:
                chain, last_id = bytes.fromhex(word["chain"]), word["through_id"]
            continue
        if row["id"] != last_id + 1:
            yield f"records {last_id + 1} to {row['id'] - 1} are missing"
        canonical = json.dumps([row[name] for name in FIELDS], ensure_ascii=False, separators=(",", ":"))
        if hashlib.sha256(chain + canonical.encode()).hexdigest() != row["chain"]:
            yield f"record {row['id']} does not continue the chain"
        chain, last_id = bytes.fromhex(row["chain"]), row["id"]
        chains[last_id] = row["chain"]
    if not tokens:
        yield "there is no checkpoint: export all of the record"
    for token in tokens:
        word = signed_word(token, key, "dicomnet-audit+jws")
        if word is None:
            yield "a checkpoint is not signed by this key"
        elif chains.get(word["last_id"]) != word["chain"]:
            yield f"the record is not the one that was signed at {word['at_utc']}, up to {word['last_id']}"


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[2], "rb") as file:
        key = load_pem_public_key(file.read())
    with open(sys.argv[1], encoding="utf-8") as lines:
        problems = list(verify(lines, key))
    print("\n".join(problems) or "nothing was changed")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
