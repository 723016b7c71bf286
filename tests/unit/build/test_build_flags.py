"""Flag values: what buildx documents is read, anything else is refused by the flag's name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipline.build import (
    Annotation,
    CacheBackend,
    CacheTarget,
    Call,
    Context,
    ContextKind,
    Host,
    Level,
    Output,
    OutputFormat,
    ProvenanceOptions,
    SbomOptions,
    Secret,
    Ssh,
    attributes,
    flags,
)
from shipline.build.result_flags import (
    parse_annotation,
    parse_attestations,
    parse_cache_source,
    parse_cache_targets,
    parse_output,
    parse_outputs,
    parse_tags,
)
from shipline.errors import UsageError
from shipline.oci import Platform, Reference, Resources, Ulimit


def nowhere(path: str) -> bool:
    return False


@given(st.lists(st.text(alphabet='ab,"= \n', min_size=1), min_size=1))
def test_quoted_fields_are_read_back(fields: list[str]) -> None:
    line = ",".join('"' + field.replace('"', '""') + '"' for field in fields)
    assert attributes.split_csv(line) == tuple(fields)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64m", 64 << 20),
        ("1.5g", 3 << 29),
        ("10", 10),
        ("2KiB", 2048),
        ("3 kb", 3072),
        ("1T", 1 << 40),
    ],
)
def test_sizes_have_binary_units(text: str, size: int) -> None:
    assert attributes.parse_size(text, "--shm-size") == size


@pytest.mark.parametrize(
    ("text", "context"),
    [
        ("-", Context(ContextKind.STDIN, "")),
        ("https://h/a.git#main:sub", Context(ContextKind.GIT, "https://h/a.git#main:sub")),
        ("git@h:a/b", Context(ContextKind.GIT, "git@h:a/b")),
        ("github.com/a/b", Context(ContextKind.GIT, "github.com/a/b")),
        ("https://h/a.tar.gz", Context(ContextKind.HTTP, "https://h/a.tar.gz")),
    ],
)
def test_context_kinds(text: str, context: Context) -> None:
    assert flags.parse_context(text, nowhere) == context


def test_a_directory_comes_before_a_url_of_its_name() -> None:
    found = flags.parse_context("github.com/a/b", lambda path: True)
    assert found == Context(ContextKind.LOCAL, "github.com/a/b")


def test_named_contexts() -> None:
    read = flags.parse_build_context
    assert read("Base=docker-image://alpine:3") == ("base", Context(ContextKind.IMAGE, "alpine:3"))
    assert read("l=oci-layout://d:v1") == ("l", Context(ContextKind.LAYOUT, "d:v1"))
    assert read("src=../src") == ("src", Context(ContextKind.LOCAL, "../src"))
    with pytest.raises(UsageError, match="not a repository name: 'a!'"):
        read("a!=.")


def test_platforms_are_split_normalised_and_unique() -> None:
    found = flags.parse_platforms(["linux/amd64,linux/arm64/v8", "aarch64"])
    assert found == (Platform("linux", "amd64"), Platform("linux", "arm64"))
    assert flags.parse_platforms([""]) == ()


def test_tags_get_latest_and_stand_once() -> None:
    assert parse_tags(["a/b", "a/b:latest"]) == (Reference.parse("a/b:latest"),)


def test_bare_names_take_the_environment_or_vanish() -> None:
    found = flags.parse_assignments(["A=1", "B", "C", "D="], "--build-arg", {"B": "2"})
    assert found == {"A": "1", "B": "2", "D": ""}
    assert flags.parse_assignments(["k", "l=a=b"], "--label") == {"k": "", "l": "a=b"}


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("id=a,src=/f", Secret("a", file=Path("/f"))),
        ("type=file,id=a,source=f", Secret("a", file=Path("f"))),
        ("id=a,env=E", Secret("a", env="E")),
        ("type=env,id=a,src=E", Secret("a", env="E")),
        ("type=env,id=a", Secret("a", env="a")),
        ("id=HAVE", Secret("HAVE", env="HAVE")),
        ("id=lack", Secret("lack", file=Path("lack"))),
        ('"id=a","src=/f,g"', Secret("a", file=Path("/f,g"))),
    ],
)
def test_secrets(text: str, secret: Secret) -> None:
    assert flags.parse_secret(text, {"HAVE": "1"}) == secret


def test_ssh() -> None:
    assert flags.parse_ssh("default") == Ssh("default")
    assert flags.parse_ssh("k=~/a,/b") == Ssh("k", (Path("~/a"), Path("/b")))


def test_caches_to_read_from() -> None:
    read = parse_cache_source
    assert read("u/a:c,u/b") == (
        CacheBackend("registry", {"ref": "u/a:c"}),
        CacheBackend("registry", {"ref": "u/b"}),
    )
    assert read('type=local,"src=a,b",mounts=true,mode=max') == (
        CacheBackend("local", {"src": "a,b"}, mounts=True),
    )


def test_caches_to_write_to() -> None:
    (found,) = parse_cache_targets(
        ["type=registry,ref=u/a,mode=max,compression=zstd,compression-level=3,ignore-error=false"],
        {},
    )
    wanted = OutputFormat("zstd", 3)
    backend = CacheBackend("registry", {"ref": "u/a"})
    assert found == CacheTarget(backend, "max", wanted, required=True)
    (found,) = parse_cache_targets(["type=local,dest=d,oci-mediatypes=false"], {})
    assert found.backend.attributes == {"dest": "d", "oci-mediatypes": "false"}
    assert found.format.docker and not found.required


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("type=registry,ref=u/a,compression=zstd,force-compression=true", {"ref": "u/a"}),
        ("type=local,src=d,dest=d,compression-level=3", {"src": "d", "dest": "d"}),
        ("type=gha,compression=zstd,oci-mediatypes=true,image-manifest=true", {}),
        ("type=s3,bucket=b,compression=zstd", {"bucket": "b"}),
    ],
)
def test_one_text_stands_for_the_cache_to_read_and_to_write(
    text: str, kept: dict[str, str]
) -> None:
    (source,) = parse_cache_source(f"{text},mode=max,ignore-error=true")
    (target,) = parse_cache_targets([f"{text},mode=max,ignore-error=true"], {})
    assert source.attributes == target.backend.attributes == kept


@pytest.mark.parametrize("kind", ["gha", "s3,bucket=b", "azblob,account_url=u"])
def test_layers_in_caches_of_services_have_the_compression_that_is_named(kind: str) -> None:
    more = "compression=zstd,compression-level=1,force-compression=true,oci-mediatypes=false"
    (found,) = parse_cache_targets([f"type={kind},{more}"], {})
    assert found.format == OutputFormat("zstd", 1, True)
    with pytest.raises(UsageError, match="'lzma'"):
        parse_cache_targets([f"type={kind},compression=lzma"], {})


def test_an_empty_mode_is_the_default() -> None:
    (found,) = parse_cache_targets(["type=gha,mode="], {})
    assert found.mode == "min"


def test_neither_errors_nor_values_show_the_secrets_of_a_cache() -> None:
    secret = "secret_access_key=hidden"
    for text in (
        f"bucket=b,{secret}",
        f"type=s3,bucket=b,bucket=c,{secret}",
        f"type=s3,bucket,{secret}",
        f"type=s4,{secret}",
        f"type=s3,mode=most,{secret}",
        f"type=s3,ignore-error=perhaps,{secret}",
    ):
        with pytest.raises(UsageError) as caught:
            parse_cache_targets([text], {})
        assert "hidden" not in repr(caught.value) + caught.value.hint
    (found,) = parse_cache_targets([f"type=s3,bucket=b,{secret}"], {})
    assert found.backend.attributes["secret_access_key"] == "hidden"
    assert "hidden" not in repr(found) and "hidden" not in str(found.backend)


def test_a_build_argument_asks_for_an_inline_cache() -> None:
    wanted = {"BUILDKIT_INLINE_CACHE": "1"}
    inline = CacheTarget(CacheBackend("inline"))
    assert parse_cache_targets([], wanted) == (inline,)
    assert parse_cache_targets(["type=inline"], wanted) == (inline,)
    assert parse_cache_targets([], {"BUILDKIT_INLINE_CACHE": "0"}) == ()


@pytest.mark.parametrize(
    "text",
    [
        "type=registry,ref=a,mode=most",
        "type=registry,ref=a,ignore-error=perhaps",
        "type=registry,ref=a,image-manifest=true,oci-mediatypes=false",
        "type=registry,ref=a,compression=estargz,oci-mediatypes=false",
        "type=disk,dest=d",
        "ref=a",
    ],
)
def test_caches_that_cannot_be_written(text: str) -> None:
    with pytest.raises(UsageError):
        parse_cache_targets([text], {})


def test_annotations_name_their_places() -> None:
    arm = Platform("linux", "arm64")
    assert parse_annotation("k=v=w") == (Annotation(Level.MANIFEST, "k", "v=w"),)
    assert parse_annotation("index,manifest-descriptor[linux/arm64]:k=v") == (
        Annotation(Level.INDEX, "k", "v"),
        Annotation(Level.MANIFEST_DESCRIPTOR, "k", "v", arm),
    )


def test_hosts() -> None:
    assert flags.parse_host("a:1.2.3.4") == Host("a", "1.2.3.4")
    assert flags.parse_host("a=[::1]") == Host("a", "::1")
    assert flags.parse_host("a:2001:db8::1") == Host("a", "2001:db8::1")
    assert flags.parse_host("a:host-gateway") == Host("a", "host-gateway")


def test_ulimits() -> None:
    assert flags.parse_ulimit("nofile=10:20") == Ulimit("nofile", 10, 20)
    assert flags.parse_ulimit("core=0") == Ulimit("core", 0, 0)
    assert flags.parse_ulimit("stack=5:-1") == Ulimit("stack", 5, -1)
    given = ("nofile=1", "core=0", "nofile=2:3")
    assert flags.parse_ulimits(given) == (Ulimit("core", 0, 0), Ulimit("nofile", 2, 3))


def test_resources() -> None:
    found = flags.parse_resources(["memory=1g,memory-swap=-1", "cpu-quota=500,cpuset-cpus=0-1"])
    assert found == Resources(1 << 30, -1, cpu_quota=500, cpuset_cpus="0-1")


def test_attestations() -> None:
    read = parse_attestations
    assert read([]) == (None, None)
    assert read([], provenance="false", sbom="true") == (None, SbomOptions())
    assert read([], provenance="true")[0] == ProvenanceOptions("max", "v1")
    assert read(["type=sbom,generator=syft"], provenance="mode=min,builder-id=b") == (
        ProvenanceOptions("min", builder_id="b"),
        SbomOptions("syft"),
    )
    parameters = (("Mode", "x"), ("type", "sbom"))
    assert read([], sbom="Generator=a/b,Mode=x")[1] == SbomOptions("a/b", False, parameters)
    quoted = '"generator=a/b","B=hello,world"'
    given = SbomOptions("a/b", False, (("B", "hello,world"), ("type", "sbom")))
    assert read([], sbom=quoted)[1] == read([f"type=sbom,{quoted}"])[1] == given
    with pytest.raises(UsageError):
        read([], sbom="generator=A b")


@pytest.mark.parametrize(
    ("attest", "short", "mode"),
    [
        ([], "", None),
        ([], "mode=max,mode=min", "min"),
        ([], "Mode=full", "max"),
        ([], "mode=min,disabled=true", None),
        (["type=provenance,mode=min", "type=provenance"], None, "min"),
        (["type=provenance,mode=min"], "false", "min"),
        (["type=provenance,disabled=true"], "true", None),
    ],
)
def test_the_first_attestation_of_a_type_counts(
    attest: list[str], short: str | None, mode: str | None
) -> None:
    found, _ = parse_attestations(attest, provenance=short)
    assert (found and found.mode) == mode


def test_calls() -> None:
    assert flags.parse_call("check,format=json,ignorestatus") == Call("check", True, True)
    assert flags.parse_call("lint") == Call("check")


def test_outputs_in_their_short_forms() -> None:
    read = parse_output
    assert read("out dir") == Output("local", "out dir")
    assert read("-") == Output("tar", "-")
    name, other = Reference.parse("a/b:latest"), Reference.parse("c:1")
    assert read("type=registry,name=a/b") == Output("image", names=(name,), push=True)
    assert read('type=image,"name=a/b,c:1",push=T').names == (name, other)
    assert not read("type=registry,name=a/b,push=false").push


def test_push_turns_image_outputs_into_pushing_ones() -> None:
    assert parse_outputs([], push=True, load=False) == (Output("image", push=True),)
    found = parse_outputs(["type=image,compression=zstd", "o"], push=True, load=False)
    assert found[0] == Output("image", format=OutputFormat("zstd"), push=True)
    assert [one.push for one in found] == [True, False]


def test_load_is_a_docker_output_without_a_file() -> None:
    found = parse_outputs(["type=docker,dest=f"], push=False, load=True)
    assert [one.loads for one in found] == [False, True]


Read = Callable[[], object]


@pytest.mark.parametrize(
    ("flag", "read"),
    [
        ("--secret", lambda: flags.parse_secret("src=f", {})),
        ("--secret", lambda: flags.parse_secret("type=vault,id=a", {})),
        ("--ssh", lambda: flags.parse_ssh("=x")),
        ("--cache-to", lambda: parse_cache_targets(["ref=a/b"], {})),
        ("--annotation", lambda: parse_annotation("layer:k=v")),
        ("--annotation", lambda: parse_annotation("k")),
        ("--add-host", lambda: flags.parse_host("a:nowhere")),
        ("--add-host", lambda: flags.parse_host("a")),
        ("--add-host", lambda: flags.parse_host("a=[::1")),
        ("--add-host", lambda: flags.parse_host("a=::1]")),
        ("--ulimit", lambda: flags.parse_ulimit("files=1")),
        ("--ulimit", lambda: flags.parse_ulimit("nofile=2:1")),
        ("--resource", lambda: flags.parse_resources(["memroy=1"])),
        ("--attest", lambda: parse_attestations(["mode=max"])),
        ("--attest", lambda: parse_attestations(["type=vex"])),
        ("--attest", lambda: parse_attestations(["provenance"])),
        ("--attest", lambda: parse_attestations(["type=sbom,disabled=perhaps"])),
        ("--sbom", lambda: parse_attestations([], sbom="mode=max")),
        ("--provenance", lambda: parse_attestations([], provenance="max")),
        ("--provenance", lambda: parse_attestations([], provenance="true,mode=max")),
        ("--provenance", lambda: parse_attestations([], provenance="mode=most")),
        ("--provenance", lambda: parse_attestations([], provenance="version=v9")),
        ("--provenance", lambda: parse_attestations([], provenance="builderid=b")),
        ("--provenance", lambda: parse_attestations([], provenance="reproducible=x")),
        ("--provenance", lambda: parse_attestations([], provenance="filename=../x")),
        ("--provenance", lambda: parse_attestations([], provenance="perhaps")),
        ("--call", lambda: flags.parse_call("guess")),
        ("--allow", lambda: flags.parse_entitlements(["everything"])),
        ("--output", lambda: parse_output("type=zip,dest=a")),
        ("--output", lambda: parse_output("type=local")),
        ("--output", lambda: parse_output("type=local,dest=-")),
        ("mode=sync", lambda: parse_output("type=local,dest=d,mode=sync")),
        ("tar=false", lambda: parse_output("type=oci,tar=false")),
        ("tar=false", lambda: parse_output("type=docker,tar=false")),
        (
            "unpack",
            lambda: parse_output("type=image,unpack=true,rewrite-timestamp=true"),
        ),
        (
            "invalid source-date-epoch",
            lambda: parse_output("type=tar,source-date-epoch=x"),
        ),
        ("unpack", lambda: parse_output("type=image,unpack=true,store=false")),
        ("nondist", lambda: parse_output("type=image,prefer-nondist-layers=true")),
        ("version=20", lambda: parse_output("type=image,compatibility-version=20")),
        (
            "level",
            lambda: parse_output("type=image,compression=estargz,compression-level=10"),
        ),
        ("--output", lambda: parse_output("type=image,push=maybe")),
        (
            "--output",
            lambda: parse_outputs(["-", "type=oci,dest=-"], push=False, load=False),
        ),
        ("--tag", lambda: parse_tags(["a/b@sha256:" + "0" * 64])),
        ("--build-context", lambda: flags.parse_build_context("name")),
        ("--shm-size", lambda: flags.parse_request(".", {}, shm_size="64x")),
        ("--build-arg", lambda: flags.parse_assignments(["=v"], "--build-arg", {})),
        ("context", lambda: flags.parse_context("missing", nowhere)),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_name(flag: str, read: Read) -> None:
    with pytest.raises(UsageError, match=flag):
        read()


def test_attributes_of_a_store_and_of_files() -> None:
    one = parse_output("type=image,name=a:1,unpack=true,name-canonical=true,store=true")
    assert (one.store, one.unpack, one.canonical, one.push) == (True, True, True, False)
    one = parse_output("type=registry,dangling-name-prefix=a/b,store=false,unpack=false")
    assert (one.store, one.unpack, one.push, one.dangling_prefix) == (False, False, True, "a/b")
    one = parse_output("type=image,compatibility-version=30,prefer-nondist-layers=false")
    assert not one.store
    assert parse_output("type=docker,context=there").context == "there"
    assert parse_output("type=local,dest=d,mode=delete").delete
    assert not parse_output("type=local,dest=d,mode=copy").delete
    for kind in ("tar", "oci"):
        assert parse_output(f"type={kind}").destination == "-"


@pytest.mark.parametrize(
    ("text", "directory", "ref"),
    [("dir/.git#main", "dir", "main"), (".git#main", ".", "main"), ("dir#v1:sub", "dir", "v1")],
)
def test_a_git_repository_of_this_machine_is_no_url(text: str, directory: str, ref: str) -> None:
    there = {"dir/.git", ".git", "dir"}
    with pytest.raises(UsageError) as caught:
        flags.parse_context(text, there.__contains__)
    assert f"`git -C {directory} archive {ref} | shipline build -`" in caught.value.hint


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda: flags.parse_host("a"), "invalid host a"),
        (lambda: parse_output("type=local"), "dest is required for local exporter"),
        (lambda: parse_output("type=bogus"), 'exporter "bogus" could not be found'),
        (lambda: flags.parse_secret("src=x", {}), "secret missing ID"),
        (lambda: flags.parse_secret("id=a,foo=b", {}), "unexpected key 'foo'"),
        (lambda: flags.parse_secret("id=a,type=zz", {}), 'unsupported secret type "zz"'),
        (lambda: parse_annotation("bad:a=b"), 'unknown annotation type "bad"'),
        (lambda: parse_annotation("a"), 'invalid annotation "a", expected key=value'),
        (lambda: flags.parse_build_context("a"), "invalid context value: a, expected key=value"),
    ],
)
def test_a_wrong_value_is_named_in_the_words_of_buildx(
    read: Callable[[], object], message: str
) -> None:
    with pytest.raises(UsageError) as found:
        read()
    assert message in found.value.message


def test_a_misspelt_secret_is_not_shown() -> None:
    with pytest.raises(UsageError) as found:
        flags.parse_secret("id=a,value=hunter2", {})
    assert "hunter2" not in str(found.value) + found.value.hint
