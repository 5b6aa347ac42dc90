"""The house rules of architecture.md that a machine can check, read from the source itself."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

import pytest

from adapters.http.errors import STATUS
from adapters.settings import ROOT
from kyma.errors import RETRYABLE, Code

PACKAGES = ("kyma", "adapters", "console", "migrations", "tests", "bench")
MAX_LINES = 500
LONG = {
    "kyma/catalog/": "catalogue rows",
    "migrations/versions/": "a migration is read once, from its beginning to its end",
    "tests/": "a table of cases grows with what it covers",
}
"""Where a module may be longer, and why it is still one thing."""


class Module:
    """A source file, parsed."""

    def __init__(self, path: Path) -> None:
        self.name = path.relative_to(ROOT).as_posix()
        self.text = path.read_text()
        self.tree = ast.parse(self.text)
        self.lines = len(self.text.splitlines())

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        """All of its syntax tree, walked once: that takes longer than any rule."""
        return tuple(ast.walk(self.tree))

    def imports(self) -> Iterator[str]:
        """Every module and every name from a module that it imports, dotted."""
        for node in self.nodes:
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield node.module
                yield from (f"{node.module}.{alias.name}" for alias in node.names)

    @cached_property
    def names(self) -> frozenset[str]:
        """Every dotted name that is read or called: `os.environ`, `datetime.now`, …"""
        return frozenset(
            dotted(node) for node in self.nodes if isinstance(node, (ast.Attribute, ast.Name))
        )


def dotted(node: ast.expr) -> str:
    """A name as it is written; what is no name stands as `…`, as in `….engine.begin`."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "…"


def modules(*packages: str) -> list[Module]:
    return [
        Module(path)
        for package in packages or PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    ]


@pytest.fixture(scope="module")
def everything() -> list[Module]:
    """All of the source, parsed for these tests and let go after them."""
    return modules()


@pytest.fixture(scope="module")
def ours(everything: list[Module]) -> list[Module]:
    """What is run, not what tests it."""
    return [m for m in everything if m.name.startswith(("kyma/", "adapters/", "console/"))]


@pytest.fixture(scope="module")
def domain(ours: list[Module]) -> list[Module]:
    return [module for module in ours if module.name.startswith("kyma/")]


def breaking(
    found: list[Module], rule: Callable[[Module], bool], allowed: frozenset[str] = frozenset()
) -> list[str]:
    return [module.name for module in found if module.name not in allowed and rule(module)]


def test_the_source_was_found(ours: list[Module], domain: list[Module]) -> None:
    assert len(domain) > 15
    assert len(ours) > 50


def test_only_the_settings_read_the_environment(ours: list[Module]) -> None:
    reads = {"os.environ", "os.getenv", "os.environb", "environ", "getenv", "os.putenv"}
    allowed = frozenset({"adapters/settings.py"})
    assert breaking(ours, lambda module: bool(reads & module.names), allowed) == []


@pytest.mark.parametrize(
    "forbidden",
    ["os", "socket", "logging", "random", "time", "secrets", "uuid", "pathlib", "subprocess"],
)
def test_the_domain_imports_nothing_that_fails_or_varies_from_outside(
    domain: list[Module], forbidden: str
) -> None:
    def rule(module: Module) -> bool:
        return any(name.split(".")[0] == forbidden for name in module.imports())

    assert breaking(domain, rule) == []


def test_the_domain_imports_only_itself_and_the_standard_library(domain: list[Module]) -> None:
    def rule(module: Module) -> bool:
        roots = {name.split(".")[0] for name in module.imports()}
        return bool(roots - {"kyma"} - sys.stdlib_module_names)

    assert breaking(domain, rule) == []


def test_the_domain_has_no_clock_and_no_dice_of_its_own(domain: list[Module]) -> None:
    endings = ("datetime.now", "datetime.utcnow", "date.today", "uuid4", "uuid1", "urandom")

    def rule(module: Module) -> bool:
        return any(name.endswith(endings) for name in module.names)

    assert breaking(domain, rule) == []


def test_only_flows_and_ports_are_asynchronous(domain: list[Module]) -> None:
    def rule(module: Module) -> bool:
        return any(isinstance(node, ast.AsyncFunctionDef) for node in module.nodes)

    pure = [m for m in domain if not m.name.startswith(("kyma/flows/", "kyma/ports/"))]
    assert breaking(pure, rule) == []


def test_only_the_transport_and_discovery_open_upstream_sockets(ours: list[Module]) -> None:
    openers = {"aiohttp.ClientSession", "ClientSession", "httpx.AsyncClient", "httpx.Client"}
    allowed = frozenset(
        {
            "adapters/upstreams/transport.py",
            "adapters/upstreams/local.py",
            "adapters/identity/google.py",  # no upstream: it is asked who somebody is
        }
    )
    assert breaking(ours, lambda module: bool(openers & module.names), allowed) == []


def test_nothing_of_ours_uses_httpx_or_requests(ours: list[Module]) -> None:
    def rule(module: Module) -> bool:
        return any(
            name.split(".")[0] in {"httpx", "requests", "httpx2"} for name in module.imports()
        )

    assert breaking(ours, rule) == []


def test_only_the_units_and_the_batcher_hold_database_connections(ours: list[Module]) -> None:
    """`engine.begin`, `engine.connect`, `connection.begin`, and COMMIT or BEGIN as text."""

    def rule(module: Module) -> bool:
        return any(
            name.endswith(("engine.begin", "engine.connect", "connection.begin", ".begin_nested"))
            for name in module.names
        )

    allowed = frozenset({"adapters/postgres/units.py", "adapters/postgres/ledger.py"})
    assert breaking(ours, rule, allowed) == []


def test_nothing_is_mocked_patched_or_skipped(everything: list[Module]) -> None:
    banned = {"unittest.mock", "mock", "pytest_mock"}
    marks = {"pytest.mark.skip", "pytest.mark.skipif", "pytest.mark.xfail", "pytest.skip"}
    marks |= {"pytest.xfail", "pytest.importorskip", "pytest.MonkeyPatch"}

    def rule(module: Module) -> bool:
        arguments = {
            argument.arg
            for node in module.nodes
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            for argument in node.args.args
        }
        return bool(
            banned & set(module.imports())
            or marks & module.names
            or {"monkeypatch", "mocker"} & arguments
        )

    # What only root can try cannot be tried by somebody who is not root.
    allowed = frozenset({"tests/e2e/test_embedded.py"})
    assert breaking(everything, rule, allowed) == []


def test_every_refusal_has_a_status_and_every_status_a_refusal() -> None:
    assert set(STATUS) == set(Code)
    assert all(400 <= status <= 599 and kind for status, kind in STATUS.values())


def test_codes_are_stable_words() -> None:
    assert len({code.value for code in Code}) == len(Code)
    assert all(code.value.replace("_", "").isalnum() and code.value.islower() for code in Code)


def test_what_is_retryable_is_not_the_callers_own_mistake() -> None:
    mistakes = {400, 401, 402, 403, 404, 405, 409, 413, 415}
    # Still under way: the one conflict that time resolves.
    waits = RETRYABLE - {Code.IDEMPOTENCY_IN_PROGRESS}
    assert not {code for code in waits if STATUS[code][0] in mistakes}
    assert {code for code in Code if STATUS[code][0] >= 500} <= RETRYABLE


def test_the_import_rules_hold() -> None:
    """What `lint-imports` runs; a process of its own, for it changes `sys.path`."""
    script = (
        "import sys; sys.path.insert(0, '.');"
        "from importlinter.cli import lint_imports_command; lint_imports_command()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_money_is_whole_numbers(domain: list[Module]) -> None:
    """No float literal, no true division, no `float(…)` where money is reckoned."""
    exempt = {"number"}  # the one way out, to JSON

    def floats(module: Module) -> list[str]:
        return [
            f"{module.name}:{node.lineno}"
            for top in module.tree.body
            if not (isinstance(top, ast.FunctionDef) and top.name in exempt)
            for node in ast.walk(top)
            if (isinstance(node, ast.Constant) and isinstance(node.value, float))
            or (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div))
            or (isinstance(node, ast.Call) and ast.unparse(node.func) in {"float", "round"})
        ]

    money = {"kyma/money.py", "kyma/ledger.py", "kyma/pricing.py"}
    assert [place for module in domain if module.name in money for place in floats(module)] == []


def test_every_module_says_what_it_owns(ours: list[Module]) -> None:
    def rule(module: Module) -> bool:
        return bool(module.tree.body) and ast.get_docstring(module.tree) is None

    assert breaking(ours, rule) == []


SILENCED = re.compile(r"#\s*(?:noqa|type:\s*ignore)\b(.*)")
REASONED = re.compile(
    r"(?:: [A-Z]+[0-9]+(?:, [A-Z]+[0-9]+)*|\[[a-z-]+\]) +(?:#|--?|)\s*[A-Za-z`].*"
)


def test_every_silenced_checker_is_told_why(everything: list[Module]) -> None:
    """Beside a `noqa` or a `type: ignore` stands what it is about, and why it is right."""
    bare = [
        f"{module.name}:{number}"
        for module in everything
        if module.name != "tests/test_house_rules.py"
        for number, line in enumerate(module.text.splitlines(), 1)
        for silenced in SILENCED.findall(line)
        if not REASONED.fullmatch(silenced)
    ]
    assert bare == []


def test_no_module_is_too_long_to_be_one_thing(everything: list[Module]) -> None:
    allowed = tuple(LONG)
    long = [m for m in everything if m.lines > MAX_LINES and not m.name.startswith(allowed)]
    assert [f"{module.name}: {module.lines} lines" for module in long] == []


def test_nothing_of_ours_prints(ours: list[Module]) -> None:
    allowed = frozenset({"adapters/cli.py"})
    found = [m for m in ours if not m.name.startswith("adapters/embedded/")]

    def rule(module: Module) -> bool:
        return any(
            isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
            for node in module.nodes
        )

    assert breaking(found, rule, allowed) == []
