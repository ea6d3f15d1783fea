"""Which trained weights made the images of a table of samples: their digest, in the table's metadata. Torch-free."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from stages import tables
from stages.errors import InputError
from stages.runtime import sha256

POLICY = b"policy"


def digest_of(policy: Path) -> str:
    """What a table of samples calls the weights in a file; raises InputError where it cannot be read."""
    try:
        return sha256(policy)[:16]
    except OSError as error:
        raise InputError(f"{policy}: not readable weights: {error.strerror}") from None


def of_policy(schema: pa.Schema, digest: str) -> pa.Schema:
    """`schema` with the digest of a policy in its metadata; as it is for no policy (the base)."""
    return schema.with_metadata({**(schema.metadata or {}), POLICY: digest}) if digest else schema


def policy_of(samples: Path) -> str:
    """The digest of the policy that a table of samples names, empty where it names none.

    Raises InputError for another file.
    """
    tables.read(samples, tables.SAMPLES, [])
    return (pq.read_schema(samples).metadata or {}).get(POLICY, b"").decode()


def require_policy(samples: Path, policy: Path) -> None:
    """Raise InputError where the table of samples was made with other weights than those in the file `policy`."""
    found, wanted = policy_of(samples), digest_of(policy)
    if found != wanted:
        raise InputError(
            f"{samples}: made with policy {found or 'unknown'}, but {policy} is {wanted}; run sample again"
        )
