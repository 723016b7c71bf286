"""Where Debian's docker-registry 2.8.3 differs from the specification, 1.1 or its main branch.

Test -> what the registry does instead. A test with parameters is named with those that differ, or
without any where all do. "May" marks what the specification leaves to the registry.
"""

from __future__ import annotations

_NO_REFERRERS = "has no referrers API; may, before 1.1"
_IGNORES_RANGE = "appends the chunk wherever Content-Range says it belongs"
_ONE_ANSWER = "opens a session instead; may"
_SHA256_ONLY = "answers with the sha256 digest, whatever was asked for"
_IGNORES_PAGES = "lists all tags, in no order; n and last mean nothing to it"
_NO_TAG_DELETE = "cannot delete tags: 400 DIGEST_INVALID; may"

DEVIATIONS: dict[str, str] = {
    "test_end_2_malformed_digest_is_400_or_404[sha256:..%2f..]": "redirects to a shorter path",
    "test_end_2_range_behind_the_end_is_416[bytes=-0]": "206 with nothing in it",
    "test_end_2_range_of_an_unknown_unit_is_ignored": "416",
    "test_names_outside_the_grammar_are_refused[name6]": "500: the file name is too long",
    "test_end_4b_push_in_one_request_is_complete": _ONE_ANSWER,
    "test_end_4b_wrong_digest_is_400": _ONE_ANSWER,
    "test_end_4c_session_for_sha512": _SHA256_ONLY,
    "test_end_4c_unknown_algorithm_is_400": "ignores the parameter",
    "test_end_5_chunk_out_of_order_is_416": _IGNORES_RANGE,
    "test_end_5_first_chunk_must_start_at_zero": _IGNORES_RANGE,
    "test_end_5_chunk_sent_twice_is_416": _IGNORES_RANGE,
    "test_end_5_malformed_content_range_is_refused": _IGNORES_RANGE,
    "test_end_5_content_range_of_another_length_is_refused": _IGNORES_RANGE,
    "test_end_6_last_chunk_out_of_order_is_416": _IGNORES_RANGE,
    "test_end_6_sha512": _SHA256_ONLY,
    "test_end_7a_sha512": "400: digests of manifests are sha256",
    "test_end_7a_subject_is_confirmed": _NO_REFERRERS,
    "test_end_7a_layers_that_registries_do_not_hold": "wants them, unless they have urls; may",
    "test_end_7a_what_is_not_a_manifest_is_400[{}]": "500",
    "test_end_7a_key_that_stands_twice_is_400": "takes the last one; may",
    "test_end_7a_descriptor_with_a_bad_digest_is_400": "500",
    "test_end_7a_more_is_413": "400",
    "test_end_7b_one_push_brings_several_tags": "ignores the parameter",
    "test_end_7b_bad_tag_is_refused_and_nothing_is_stored": "ignores the parameter",
    "test_end_8a_lists_tags_in_order": _IGNORES_PAGES,
    "test_end_8b_pages": _IGNORES_PAGES,
    "test_end_8b_last_is_exclusive": _IGNORES_PAGES,
    "test_end_8b_last_need_not_exist": _IGNORES_PAGES,
    "test_end_8b_zero_is_an_empty_list_without_link": _IGNORES_PAGES,
    "test_end_8b_count_that_is_none_is_400": "ignores n; may",
    "test_end_9_deletes_a_tag_and_keeps_the_manifest": _NO_TAG_DELETE,
    "test_end_9_unknown_tag_is_404": _NO_TAG_DELETE,
    "test_tags_are_empty_when_the_last_is_gone": _NO_TAG_DELETE,
    "test_end_12a_without_referrers_is_an_empty_index": _NO_REFERRERS,
    "test_end_12a_unknown_subject_is_an_empty_index": _NO_REFERRERS,
    "test_end_12a_bad_digest_is_400": _NO_REFERRERS,
    "test_end_12a_describes_the_referrers": _NO_REFERRERS,
    "test_end_12a_index_as_referrer": _NO_REFERRERS,
    "test_end_12a_referrer_may_come_before_its_subject": _NO_REFERRERS,
    "test_end_12a_deleted_referrer_is_gone": _NO_REFERRERS,
    "test_end_12a_repositories_are_apart": _NO_REFERRERS,
    "test_end_12b_filter_by_artifact_type": _NO_REFERRERS,
}
