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
_WANTS_LAYERS = "wants them, or urls that its configuration allows; may"
_NO_TAG_DELETE = "cannot delete tags: 400 DIGEST_INVALID; may"

DEVIATIONS: dict[str, str] = {
    "test_end_2_malformed_digest_is_400_or_404[sha256:..%2f..]": "redirects to a shorter path",
    "test_end_2_range_behind_the_end_is_416[bytes=-0]": "206 with nothing in it",
    "test_end_2_range_of_an_unknown_unit_is_ignored": "416",
    "test_end_2_and_3_condition_on_other_content_is_412": "ignores it for manifests",
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
    "test_end_7a_layers_that_registries_do_not_hold": _WANTS_LAYERS,
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
    "test_end_12a_pages": _NO_REFERRERS,
    "test_end_12a_repositories_are_apart": _NO_REFERRERS,
    "test_end_12b_filter_by_artifact_type": _NO_REFERRERS,
    "test_document_lives_from_push_to_delete[image_with_layers_elsewhere]": _WANTS_LAYERS,
    "test_document_lives_from_push_to_delete[artifacts_with_subject]": _NO_REFERRERS,
    "test_document_lives_from_push_to_delete[index_with_subject]": _NO_REFERRERS,
    "test_document_lives_from_push_to_delete[subject_that_is_missing]": _NO_REFERRERS,
    "test_end_7b_document_lives_with_tags_of_the_query": "ignores the parameter",
    "test_end_12a_lists_what_an_older_client_put_into_a_referrers_tag": _NO_REFERRERS,
    "test_blob_pushed_by_sha512_is_there": _SHA256_ONLY,
    "test_chunks_out_of_order_are_416_and_the_upload_goes_on": _IGNORES_RANGE,
    "test_end_5_refused_chunk_is_answered_with_where_to_go_on": _IGNORES_RANGE,
    "test_end_11_mounted_blob_stays_when_its_source_goes[any-sha256]": _ONE_ANSWER,
    "test_end_11_mounted_blob_stays_when_its_source_goes[any-sha512]": _ONE_ANSWER,
    "test_end_11_mounted_blob_stays_when_its_source_goes[named-sha512]": _SHA256_ONLY,
    "test_head_of_a_list_has_the_headers_of_get": "has no HEAD for lists",
    "test_colon_may_be_percent_encoded[referrers/{manifest}]": _NO_REFERRERS,
    "test_end_7a_malformed_digest_is_400": "500",
    "test_end_7a_tag_moves_only_from_what_the_client_has_seen": "ignores conditions on changes",
    "test_end_8b_behind_the_end_is_an_empty_list": _IGNORES_PAGES,
    "test_end_12b_filter_may_be_written_with_a_plus": _NO_REFERRERS,
    "test_unknown_methods_are_refused[/v2/]": "answers every method",
}
