"""The OCI specifications as immutable values, without I/O."""

from shipline.oci import media
from shipline.oci.descriptor import NO_ANNOTATIONS, Descriptor, Digest, Hasher, InvalidDigest
from shipline.oci.image import History, ImageConfig
from shipline.oci.manifest import (
    CONFIG_LIMIT,
    IMAGE_NAME,
    LAYOUT_FILE,
    MANIFEST_LIMIT,
    MAX_DEPTH,
    PREDICATE_TYPE,
    REF_NAME,
    REFERENCE_DIGEST,
    REFERENCE_TYPE,
    Index,
    Manifest,
    Part,
    combine,
    from_bytes,
    is_attestation,
    parse_manifest,
    to_bytes,
    weight_of,
)
from shipline.oci.platform import Platform, best_match
from shipline.oci.reference import (
    DEFAULT_HOST,
    InvalidReference,
    Reference,
    check_repository,
    check_tag,
    is_attached_tag,
    is_tag,
)
from shipline.oci.resources import Resources, Ulimit
from shipline.oci.schema1 import parse_schema1, schema1_payload, schema1_type
