"""Statements about images: signatures and attestations, made and verified."""

from shipline.supply.attach import FORMS
from shipline.supply.attest import STATEMENT_LIMIT, attest, statement_about
from shipline.supply.bundle import BUNDLE, Bundle
from shipline.supply.claims import (
    COSIGN_ARTIFACT,
    DEFAULT_LIMITS,
    Form,
    Kind,
    Limits,
    Rejected,
    Why,
    attachment_tag,
)
from shipline.supply.dsse import ENVELOPE, IN_TOTO, Envelope, from_base64, pae
from shipline.supply.identity import OPTIONAL, SAME_REPOSITORY, Identity, ImagePattern
from shipline.supply.keyfile import Password, encrypted_pem, parse_private_key
from shipline.supply.keys import PrivateKey, PublicKey, generate_key
from shipline.supply.keystore import (
    KeyFiles,
    check_free,
    read_pem,
    read_private_key,
    read_public_key,
    write_key_pair,
)
from shipline.supply.predicates import COSIGN_SIGN, NAMES, predicate_type, short_name, stated_time
from shipline.supply.protocols import Attachable, Evidence, Referring
from shipline.supply.sign import Signed, sign, signable
from shipline.supply.simplesigning import SIMPLE_SIGNING, SimplePayload
from shipline.supply.statement import STATEMENT, Statement, Subject
from shipline.supply.verify import (
    Attestation,
    Attestations,
    Signature,
    SignatureRefused,
    Verification,
    examine,
    examine_attestations,
    proven_in,
    reasons,
    verify,
    verify_attestations,
    way_out,
)

__all__ = [
    "BUNDLE",
    "COSIGN_ARTIFACT",
    "COSIGN_SIGN",
    "DEFAULT_LIMITS",
    "ENVELOPE",
    "FORMS",
    "IN_TOTO",
    "NAMES",
    "OPTIONAL",
    "SAME_REPOSITORY",
    "SIMPLE_SIGNING",
    "STATEMENT",
    "STATEMENT_LIMIT",
    "Attachable",
    "Attestation",
    "Attestations",
    "Bundle",
    "Envelope",
    "Evidence",
    "Form",
    "Identity",
    "ImagePattern",
    "KeyFiles",
    "Kind",
    "Limits",
    "Password",
    "PrivateKey",
    "PublicKey",
    "Referring",
    "Rejected",
    "Signature",
    "SignatureRefused",
    "Signed",
    "SimplePayload",
    "Statement",
    "Subject",
    "Verification",
    "Why",
    "attachment_tag",
    "attest",
    "check_free",
    "encrypted_pem",
    "examine",
    "examine_attestations",
    "from_base64",
    "generate_key",
    "pae",
    "parse_private_key",
    "predicate_type",
    "proven_in",
    "read_pem",
    "read_private_key",
    "read_public_key",
    "reasons",
    "short_name",
    "sign",
    "signable",
    "stated_time",
    "statement_about",
    "verify",
    "verify_attestations",
    "way_out",
    "write_key_pair",
]
