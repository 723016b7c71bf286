"""Bake definitions that are wrong or do not end: one message, with the place."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest

from shipline.bake import (
    BakeError,
    DefinitionFile,
    SelectedTargets,
    definitions,
    missing_permissions,
    parse_files,
    parse_permissions,
    request_of,
    select,
)
from shipline.bake.evaluation import Budget
from shipline.errors import ShiplineError


def selected(text: str, *wanted: str, name: str = "docker-bake.hcl") -> SelectedTargets:
    file = DefinitionFile(name, text.encode())
    config = parse_files([file], {}, variables={}, builtin={})
    return select(config, wanted or ("default",), (), {})


def refused(text: str, name: str = "docker-bake.hcl") -> ShiplineError:
    with pytest.raises(ShiplineError) as found:
        selected(text, name=name)
    assert found.value.exit_code in (2, 3)
    return found.value


def line(error: ShiplineError) -> int:
    assert error.span is not None, error.message
    return error.span.line


@pytest.mark.parametrize(
    "attribute",
    ['inherits = ["t{0}", "t{0}"]', 'contexts = {{ x = "target:t{0}", y = "target:t{0}" }}'],
)
def test_what_is_named_twice_by_each_target_is_read_once(attribute: str) -> None:
    targets = [f'target "t{n + 1}" {{ {attribute.format(n)} }}' for n in range(30)]
    found = selected("\n".join(['target "t0" { tags = ["a"] }', *targets]), "t30")
    assert "t30" in found.targets


def test_a_cycle_is_named() -> None:
    inherits = refused(
        'target "a" { inherits = ["default"] }\ntarget "default" { inherits = ["a"] }'
    )
    assert "default -> a -> default" in inherits.message
    contexts = refused(
        'target "a" { contexts = { x = "target:default" } }\n'
        'target "default" { contexts = { x = "target:a" } }'
    )
    assert "default -> a -> default" in contexts.message
    groups = refused('group "default" { targets = ["g"] }\ngroup "g" { targets = ["default"] }')
    assert "default -> g -> default" in groups.message
    variables = refused('variable "A" { default = B }\nvariable "B" { default = A }')
    assert line(variables) == 2


@pytest.mark.parametrize(
    "definition",
    [
        'function "f" {\n params = [x]\n result = f(x)\n}\ntarget "default" { tags = [f("a")] }',
        "\n".join(
            [
                'function "f0" {\n params = [x]\n result = "${x}${x}"\n}',
                *(
                    f'function "f{n}" {{\n params = [x]\n result = f{n - 1}(f{n - 1}(x))\n}}'
                    for n in range(1, 12)
                ),
                'target "default" { tags = [f11("a")] }',
            ]
        ),
        'target "default" { tags = [for a in range(1000) : [for b in range(1000) :'
        " [for c in range(1000) : c]]] }",
        'target "default" { tags = ["' + "${" * 5000 + "1" + "}" * 5000 + '"] }',
        'target "default" { tags = ' + "[" * 100_000,
        'target "default" { args = { a = ' + "-" * 100_000 + "1 } }",
        'target "default" {\n name = "a${a}-${b}-${c}"\n matrix = {'
        + "".join(f"\n {one} = range(1000)" for one in "abc")
        + "\n }\n}",
        'target "default" { args = { a = pow(10, 100000) } }',
        'target "default" { args = { a = "${9999999999 * 9e999999}" } }',
        'target "default" { args = { a = format("%999999999d", 1) } }',
        'target "default" { args = { a = regex("(a+)+$", "' + "a" * 60 + 'b") } }',
    ],
)
def test_what_does_not_end_is_refused_soon(
    definition: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(definitions, "Budget", partial(Budget, steps=100_000))
    begun = time.thread_time()
    error = refused(definition)
    assert error.span is not None
    assert time.thread_time() - begun < 20


@pytest.mark.parametrize(
    "text",
    [
        "services: &a\n  x: *a\n",
        "a: &a [1,1]\nb: &b [*a,*a]\nc: &c [*b,*b]\nservices:\n  app:\n    build: [*c]\n",
        "services:\n  app:\n    build: 5\n",
        "services: 5\n",
        "- 1\n",
        "services:\n  app: []\n",
        "services:\n  app:\n    build:\n      args: {a: ${X\n",
        "services:\n  app:\n    build:\n      tags: x\n",
        "services:\n  app:\n    build:\n      contxt: x\n",
        "services:\n  a:\n    extends: b\n    build: .\n  b:\n    extends: a\n",
        "services:\n  a:\n    build: .\n    depends_on: [b]\n",
        "services:\n  a:\n    build: .\n    env_file: [no-such-file.env]\n",
    ],
)
def test_a_wrong_compose_file_is_one_message(text: str) -> None:
    assert refused(text, "compose.yaml").message


def test_an_unknown_key_of_a_build_is_an_error_and_others_are_warnings() -> None:
    error = refused("services:\n  app:\n    build:\n      contxt: x\n", "compose.yaml")
    assert line(error) == 4
    assert "context" in error.hint
    text = "services:\n  app:\n    build: .\n    imagee: x\nthing: 1\n"
    file = DefinitionFile("compose.yaml", text.encode())
    config = parse_files([file], {}, variables={}, builtin={})
    assert [one.partition(": ")[0] for one in config.warnings] == [
        "compose.yaml:5",
        "compose.yaml:4",
    ]


def test_of_secrets_and_agents_with_one_name_the_last_counts() -> None:
    text = """target "a" {
      secret = ["id=s,env=A", "id=t,env=B", { id = "s", env = "C" }]
      ssh    = ["k=a", "l=b", { id = "k", paths = ["c"] }]
    }
    target "b" { inherits = ["a"] }"""
    config = parse_files([DefinitionFile("a.hcl", text.encode())], {}, variables={}, builtin={})
    for name in ("a", "b"):
        values = select(config, (name,), (), {}).targets[name].values
        assert values["secret"] == [{"id": "s", "env": "C"}, {"id": "t", "env": "B"}]
        assert values["ssh"] == [{"id": "k", "paths": ["c"]}, {"id": "l", "paths": ["b"]}]


def test_a_service_has_an_image_or_is_built() -> None:
    error = refused("services:\n  a:\n    environment: [A=1]\n", "compose.yaml")
    assert 'service "a" has neither an image nor a build context specified' in error.message


@pytest.mark.parametrize(
    "first, environ, name",
    [("", {}, "bake"), ("", {"COMPOSE_PROJECT_NAME": "own"}, "own"), ("name: file\n", {}, "file")],
)
def test_the_name_of_a_compose_project_is_a_variable(
    first: str, environ: dict[str, str], name: str
) -> None:
    build = "{context: ., args: {N: $COMPOSE_PROJECT_NAME}}"
    file = DefinitionFile("compose.yaml", f"{first}services: {{a: {{build: {build}}}}}".encode())
    config = parse_files([file], environ, variables={}, builtin={})
    assert config.targets["a"].values["args"] == {"N": name}


def test_a_global_attribute_of_a_later_file_wins() -> None:
    first = DefinitionFile("a.hcl", b'A = "1"\ntarget "a" {\n  args = { N = A }\n}\n')
    files = [first, DefinitionFile("b.hcl", b'A = "2"\n')]
    config = parse_files(files, {}, variables={}, builtin={})
    assert config.targets["a"].values["args"] == {"N": "2"}


def test_services_of_the_first_compose_format_are_an_error_that_names_the_cure() -> None:
    error = refused("web:\n  build: .\nredis:\n  image: redis\n", "docker-compose.yml")
    assert line(error) == 1
    assert "below `services:`" in error.hint


def test_an_attribute_that_is_ignored_is_a_warning() -> None:
    file = DefinitionFile("docker-bake.hcl", b'target "default" {\n  tag = ["x"]\n}\n')
    config = parse_files([file], {}, variables={}, builtin={})
    assert config.warnings == ["docker-bake.hcl:2:3: a target has no attribute tag: it is ignored"]


@pytest.mark.parametrize("content", [b"\xff\xfe", b"\0", b"{", b"[]", b"", b'target "a" {'])
@pytest.mark.parametrize("name", ["a.hcl", "a.json", "a.yaml", "a"])
def test_any_bytes_are_definitions_or_one_message(name: str, content: bytes) -> None:
    try:
        parse_files([DefinitionFile(name, content)], {}, variables={}, builtin={})
    except BakeError as error:
        assert error.message


def test_a_variable_of_the_command_line_wins_over_the_environment() -> None:
    file = DefinitionFile("docker-bake.hcl", b'variable "A" {}\ntarget "default" { tags = [A] }')
    config = parse_files([file], {"A": "environment"}, variables={"A": "given"}, builtin={})
    assert select(config, ("default",), (), {}).targets["default"].values["tags"] == ["given"]


def test_the_environment_can_be_hidden() -> None:
    hidden = {"A": "x", "BUILDX_BAKE_DISABLE_VARS_ENV_LOOKUP": "1"}
    file = DefinitionFile(
        "docker-bake.hcl", b'variable "A" {}\ntarget "default" { tags = ["t${A}"] }'
    )
    config = parse_files([file], hidden, variables={}, builtin={})
    assert select(config, ("default",), (), {}).targets["default"].values["tags"] == ["t"]


def test_every_function_of_the_documentation_is_there() -> None:
    from shipline.bake.texts import STDLIB

    names = """absolute add and base64decode base64encode basename bcrypt byteslen bytesslice can
    ceil chomp chunklist cidrhost cidrnetmask cidrsubnet cidrsubnets coalesce coalescelist compact
    concat contains convert csvdecode dirname distinct divide element equal flatten floor format
    formatdate formatlist greaterthan greaterthanorequalto hasindex homedir indent index indexof int
    join jsondecode jsonencode keys length lessthan lessthanorequalto log lookup lower max md5 merge
    min modulo multiply negate not notequal or parseint pow range regex regex_replace regexall
    replace reverse reverselist rsadecrypt sanitize sethaselement setintersection setproduct
    setsubtract setsymmetricdifference setunion sha1 sha256 sha512 signum slice sort split strlen
    substr subtract timeadd timestamp title trim trimprefix trimspace trimsuffix try upper urlencode
    uuidv4 uuidv5 values zipmap"""
    assert set(names.split()) <= STDLIB.keys()


def test_functions_of_chance_and_of_secrets(tmp_path: Path) -> None:
    found = (
        selected('target "default" { args = { a = bcrypt("x"), b = uuidv4(), c = timestamp() } }')
        .targets["default"]
        .values["args"]
    )
    assert found["a"].startswith("$2a$10$") and len(found["a"]) == 60
    assert len(found["b"]) == 36
    assert found["c"].endswith("Z")


@pytest.mark.parametrize(
    "expression",
    [
        " + ".join("1" for _ in range(5000)),
        "-".join("9" for _ in range(5000)),
        " || ".join("false" for _ in range(5000)),
        " == ".join("1" for _ in range(500)),
    ],
)
def test_a_chain_of_operators_may_have_any_length(expression: str) -> None:
    assert selected(f'target "default" {{ args = {{ a = {expression} }} }}').targets["default"]


@pytest.mark.parametrize(
    "expression", ["a" + ".b" * 5000, "[[1]]" + "[0]" * 5000, "[1]" + "[*]" * 5000]
)
def test_what_is_too_deep_is_one_message(expression: str) -> None:
    assert refused(f'target "default" {{ args = {{ a = {expression} }} }}').message


def test_targets_that_all_use_each_other_are_linked_once() -> None:
    names = [f"t{number}" for number in range(60)]
    text = "".join(
        f'target "{name}" {{\n contexts = {{'
        + "".join(f'\n {one} = "target:{one}"' for one in names[at + 1 :])
        + "\n }\n}\n"
        for at, name in enumerate(names)
    )
    assert len(selected(text, "t0").targets) == 60


@pytest.mark.parametrize("attribute", ['inherits = ["t{}"]', 'contexts = {{ x = "target:t{}" }}'])
def test_a_chain_of_targets_is_taken_or_one_message(attribute: str) -> None:
    text = "".join(f'target "t{n}" {{\n {attribute.format(n + 1)}\n}}\n' for n in range(3000))
    assert refused(text + 'target "t3000" {}\ngroup "default" { targets = ["t0"] }\n').message


def project(files: Mapping[str, str], *names: str) -> SelectedTargets:
    """Compose files, written to the current directory."""
    for name, text in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)
    read = [DefinitionFile(name, Path(name).read_bytes()) for name in names or ["compose.yaml"]]
    config = parse_files(read, {}, variables={}, builtin={})
    return select(config, ("default",), (), {})


def test_paths_of_other_compose_files_are_below_their_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = project(
        {
            "compose.yaml": "include:\n- sub/c.yaml\n"
            "- {path: other/d.yaml, project_directory: place, env_file: own.env}\n"
            "services:\n a: {build: .}\n e: {extends: {file: sub/f.yaml, service: e}}\n",
            "own.env": "TAG=one\n",
            "sub/.env": "TAG=two\n",
            "sub/c.yaml": "services: {b: {build: {context: ./b, tags: ['b:$TAG'], secrets: [s],"
            " additional_contexts: [q=./q]}}}\nsecrets: {s: {file: ./s.txt}}\n",
            "sub/f.yaml": "services: {e: {build: ./e}}\n",
            "sub/s.txt": "x",
            "other/d.yaml": "services: {d: {build: {context: d, tags: ['d:$TAG']}}}\n",
        }
    ).targets
    contexts = {name: target.values["context"] for name, target in found.items()}
    assert contexts == {"a": ".", "b": "sub/b", "d": "place/d", "e": "sub/e"}
    assert found["b"].values["contexts"] == {"q": "sub/q"}
    assert found["b"].values["secret"] == [{"id": "s", "src": "sub/s.txt"}]
    assert (found["b"].values["tags"], found["d"].values["tags"]) == (["b:two"], ["d:one"])


def test_values_of_earlier_compose_files_are_taken_away_or_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = "services: {a: {build: {context: ., tags: [x], args: {A: 1, B: 2}, target: t}}}\n"
    second = "services: {a: {build: {tags: !reset [], args: !override {B: 3}, target: !reset x}}}\n"
    found = project({"c.yaml": first, "o.yaml": second}, "c.yaml", "o.yaml").targets["a"].values
    assert "tags" not in found and "target" not in found and found["args"] == {"B": "3"}


def missing(text: str, environ: Mapping[str, str]) -> list[str]:
    found = selected(text)
    return [one.flag for one in missing_permissions(found, parse_permissions(()), environ)]


def test_without_checks_of_files_the_agent_needs_no_permission() -> None:
    found = selected('target "default" {\n ssh = ["default"]\n}')
    given = parse_permissions(())
    assert [one.flag for one in missing_permissions(found, given, {})] == ["ssh"]
    assert not missing_permissions(found, given, {}, files=False)


def test_a_host_may_have_several_addresses() -> None:
    text = 'target "default" {\n extra-hosts = { h = "1.2.3.4,1.2.3.5" }\n}'
    hosts = request_of(selected(text).targets["default"], {}, None).run.hosts
    assert [(one.name, one.address) for one in hosts] == [("h", "1.2.3.4"), ("h", "1.2.3.5")]


def test_a_remote_context_has_the_logins_of_bake() -> None:
    environ = {"BUILDX_BAKE_GIT_AUTH_TOKEN": "t"}
    for context, ids in (("https://git.example/a.git", ["GIT_AUTH_TOKEN"]), (".", [])):
        target = selected(f'target "default" {{\n context = "{context}"\n}}').targets["default"]
        assert [one.id for one in request_of(target, environ, None).secrets] == ids


def test_every_file_that_is_read_needs_permission(tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("x")
    remote = 'context = "https://example.com/r.git"'
    for attributes in (
        f'{remote}\n dockerfile = "{outside}"',
        f'{remote}\n dockerfile = "cwd://{outside}"',
        f'secret = ["id={outside}"]',
        f'secret = ["type=file,id={outside}"]',
        f'secret = [{{ id = "{outside}" }}]',
    ):
        assert missing(f'target "default" {{\n {attributes}\n}}', {}) == [f"fs.read={outside}"]
    named = f'target "default" {{\n secret = ["id={outside}"]\n}}'
    assert missing(named, {str(outside): "x"}) == []
    assert missing(f'target "default" {{\n {remote}\n dockerfile = "a/b"\n}}', {}) == []


def test_what_was_meant_is_in_the_hint() -> None:
    text = 'target "svc-api" {}'
    with pytest.raises(ShiplineError) as found:
        selected(text, "svc-ap")
    assert found.value.hint == "did you mean svc-api?"
    for override, hint in (("svc-api.tag=x", "did you mean tags?"), ("svc-api", "TARGET.KEY")):
        file = DefinitionFile("docker-bake.hcl", text.encode())
        config = parse_files([file], {}, variables={}, builtin={})
        with pytest.raises(ShiplineError) as found:
            select(config, ("svc-api",), (override,), {})
        assert hint in found.value.hint


MESSAGES = [
    ('target "app" { contexts = { x = "target:other" } }', ("app",), "failed to find target other"),
    ('target "a" {}', ("default",), "failed to find target default"),
    ('target "a" {}', ("b*",), "could not find any target matching 'b*'"),
    (
        'target "mid" { platforms = ["linux/amd64", "linux/riscv64"] }\n'
        'target "app" {\n contexts = { x = "target:mid" }\n'
        ' platforms = ["linux/amd64", "linux/arm64"]\n}',
        ("app",),
        "target mid can't be used by app because its platforms [linux/amd64 linux/arm64] are not a "
        "subset of [linux/amd64 linux/riscv64]",
    ),
    ('target "a/b" {}', ("a",), 'only "[a-zA-Z0-9_-]+" are allowed'),
    ('target "a" { name = "b" }', ("a",), "name requires matrix"),
    ('group "a" {\n name = "b"\n targets = ["x"]\n}', ("a",), "name is not supported for groups"),
    ('group "a" { matrix = { n = ["x"] } }', ("a",), "matrix is not supported for groups"),
    ('target "a" { matrix = "x" }', ("a",), "matrix must be a map"),
    ('target "a" { matrix = { n = "x" } }', ("a",), "matrix values must be a list"),
    ('variable "A" { default = A }\ntarget "a" {}', ("a",), "variable cycle not allowed for A"),
    ('function "f" { result = 1 }\ntarget "a" { args = { x = f() } }', ("a",), "empty params not"),
    ('variable "A" { type = strng }\ntarget "a" {}', ("a",), "Invalid type specification"),
    (
        'variable "A" {\n validation {\n  condition = A != ""\n  error_message = "A is needed."\n'
        ' }\n}\ntarget "a" {}',
        ("a",),
        "Validation failed; A: A is needed.",
    ),
]


@pytest.mark.parametrize(("text", "wanted", "message"), MESSAGES)
def test_what_is_wrong_has_the_words_of_buildx(
    text: str, wanted: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ShiplineError) as found:
        selected(text, *wanted)
    assert message in found.value.message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("other.context=x", "could not find any target matching 'other'"),
        ("app.context", "invalid override app.context, expected target.name=value"),
        ("app", "invalid override key app, expected target.name"),
        ("app.args=a", "invalid key app.args, args requires name"),
        ("app.foo=a", "unknown key: foo"),
        ("app.pull=x", "invalid value x for boolean key pull"),
    ],
)
def test_a_wrong_override_has_the_words_of_buildx(override: str, message: str) -> None:
    config = parse_files(
        [DefinitionFile("a.hcl", b'target "app" {}')], {}, variables={}, builtin={}
    )
    with pytest.raises(ShiplineError) as found:
        select(config, ("app",), (override,), {})
    assert message in found.value.message


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("default = 1", "NaN", "failed to parse A as number"),
        ("default = true", "maybe", "failed to parse A as bool"),
        ("default = []", "x", "unsupported type tuple for variable A"),
        ("type = any", "x", "unsupported type dynamic for variable A"),
        ("type = list(number)", "1,x", "failed to convert variable A from CSV"),
        ("type = map(string)", "a:b:c", "failed to convert variable A from CSV"),
        ("type = map(string)", 'a:b,c:"d', "failed to parse 'c:\"d' as CSV"),
        ("type = map(number)", "a:1z", "failed to parse element of type number"),
        ("type = list(list(number))", "1,2", "unsupported type list of number"),
        ("type = tuple([list(number)])", "1", "unsupported type list of number"),
        ("type = boolean", "1", "is not a valid type"),
    ],
)
def test_a_wrong_value_of_the_environment_has_the_words_of_buildx(
    variable: str, value: str, message: str
) -> None:
    file = DefinitionFile("a.hcl", f'variable "A" {{ {variable} }}\ntarget "a" {{}}'.encode())
    with pytest.raises(ShiplineError) as found:
        parse_files([file], {"A": value}, variables={}, builtin={})
    assert message in found.value.message
