"""Statements about images: signatures and attestations, made and verified.

Making and verifying them are loaded when they are first named: a copy only reads them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shipline.lazy import load_when_named
from shipline.supply.attachments import (
    attached_tags,
    copy_evidence,
    copy_with_evidence,
    evidence_of,
)
from shipline.supply.claims import (
    COSIGN_ARTIFACT,
    DEFAULT_LIMITS,
    PREDICATE_ANNOTATION,
    Attachable,
    ClaimKind,
    EvidenceLimits,
    Form,
    Rejected,
    RejectReason,
    StatementSource,
    at_the_source,
    attachment_tag,
    find_claims,
)
from shipline.supply.envelopes import (
    BUNDLE,
    ENVELOPE,
    IN_TOTO,
    SIMPLE_SIGNING,
    Bundle,
    Envelope,
    from_base64,
    pae,
)
from shipline.supply.keys import PrivateKey, PublicKey, generate_key

if TYPE_CHECKING:
    from shipline.supply.blobs import (
        BUNDLE_LIMIT,
        sign_blob,
        sign_detached,
        verify_blob,
        verify_detached,
    )
    from shipline.supply.keyfile import (
        PASSWORD_VARIABLES,
        KeyFiles,
        check_free,
        encrypted_pem,
        parse_private_key,
        read_pem,
        read_private_key,
        read_public_key,
        write_key_pair,
    )
    from shipline.supply.signing import STATEMENT_LIMIT, attest, sign, signable, statement_about
    from shipline.supply.statement import (
        COSIGN_SIGN,
        CYCLONEDX,
        SPDX,
        STATEMENT,
        Statement,
        Subject,
        predicate_type,
        short_name,
        stated_time,
        stored_statements,
    )
    from shipline.supply.verification import (
        OPTIONAL,
        Attestations,
        Identity,
        ImagePattern,
        Signature,
        SignatureRefused,
        Verification,
        VerifiedAttestation,
        examine,
        examine_attestations,
        proven_in,
        reasons,
        refusal_hint,
        verify,
        verify_attestations,
    )
else:
    __getattr__ = load_when_named(
        __name__,
        blobs="BUNDLE_LIMIT sign_blob sign_detached verify_blob verify_detached",
        keyfile="PASSWORD_VARIABLES KeyFiles check_free encrypted_pem parse_private_key read_pem "
        "read_private_key read_public_key write_key_pair",
        signing="STATEMENT_LIMIT attest sign signable statement_about",
        statement="COSIGN_SIGN CYCLONEDX SPDX STATEMENT Statement Subject predicate_type "
        "short_name stated_time stored_statements",
        verification="OPTIONAL Attestations Identity ImagePattern Signature SignatureRefused "
        "Verification VerifiedAttestation examine examine_attestations proven_in reasons "
        "refusal_hint verify verify_attestations",
    )
