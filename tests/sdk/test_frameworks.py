"""The frameworks people build with, unmodified, against a running gateway over real sockets.

Each brings requirements that contradict the gateway's own, so it runs in a virtual environment of
its own (`make test` makes it), under a pytest of its own. What it tries are the sentences in
`tests/sdk/frameworks`; each of them is a test here.
"""

from __future__ import annotations

import ast
import asyncio
import os
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
import pytest_asyncio

from adapters.settings import ROOT
from tests.sdk.conftest import Sdk, paying_customer

FOLDER = ROOT / "tests" / "sdk" / "frameworks"
SETS = {
    "instructor": "held-back",
    "langchain": "current",
    "litellm": "held-back",
    "llm": "current",
    "pydantic_ai": "current",
}
"""Framework → the virtual environment it is installed in (`tests/sdk/*.lock`)."""

PATIENCE_S = 240

QUIET = {
    "DO_NOT_TRACK": "1",
    "LANGCHAIN_TRACING_V2": "false",
    "LANGSMITH_TRACING": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_TELEMETRY": "False",
    "NO_COLOR": "1",
}
"""No framework reports home; `frameworks/conftest.py` fails the test of one that tries."""


def sentences(framework: str) -> list[str]:
    """The names of a framework's tests."""
    tree = ast.parse((FOLDER / f"{framework}_client.py").read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [n.name for n in tree.body if isinstance(n, kinds) and n.name.startswith("test_")]


CASES = [(framework, sentence) for framework in SETS for sentence in sentences(framework)]

Verdicts = Mapping[str, "asyncio.Task[dict[str, list[str]]]"]


@pytest_asyncio.fixture(scope="module")
async def verdicts(request: pytest.FixtureRequest, sdk: Sdk) -> AsyncIterator[Verdicts]:
    """Every framework that a test of this run asks for, at work."""
    asked = {
        item.callspec.params["framework"]
        for item in request.session.items
        if hasattr(item, "callspec") and item.path == request.path
    }
    with tempfile.TemporaryDirectory(prefix="kyma-sdk-") as folder:
        tasks = {name: asyncio.create_task(run(name, sdk, Path(folder))) for name in sorted(asked)}
        yield tasks
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)


async def run(framework: str, sdk: Sdk, folder: Path) -> dict[str, list[str]]:
    """Sentence → what was wrong with each of its cases, "" where nothing was."""
    report, home = folder / f"{framework}.xml", folder / framework
    home.mkdir()
    key = (await paying_customer(sdk)).key
    told = {"KYMA_SDK_URL": sdk.url, "KYMA_SDK_KEY": key}
    child = await asyncio.create_subprocess_exec(
        str(python_of(framework)), "-m", "pytest", str(FOLDER / f"{framework}_client.py"),
        "-c", str(FOLDER / "pytest.ini"), "--rootdir", str(FOLDER), "--confcutdir", str(FOLDER),
        "--junit-xml", str(report), "-p", "no:cacheprovider",
        cwd=home,
        env={"PATH": os.environ["PATH"], "HOME": str(home), **QUIET, **told},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        said, _ = await asyncio.wait_for(child.communicate(), PATIENCE_S)
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if not report.exists():
        raise RuntimeError(f"{framework} told nothing of its tests:\n{said.decode()}")
    return read(report)


def python_of(framework: str) -> Path:
    """The interpreter of a framework's virtual environment."""
    python = ROOT / ".venv-sdk" / SETS[framework] / "bin" / "python"
    if not python.exists():
        raise RuntimeError(f"{python} is not there: `make test` makes it.")
    return python


def read(report: Path) -> dict[str, list[str]]:
    """A JUnit report; whatever stands in a case is what went wrong with it."""
    verdicts: dict[str, list[str]] = {}
    for case in ET.parse(report).getroot().iter("testcase"):
        wrong = "\n".join(f"{child.get('message')}\n{child.text}" for child in case)
        verdicts.setdefault(str(case.get("name")).split("[")[0], []).append(wrong)
    return verdicts


@pytest.mark.parametrize(("framework", "sentence"), CASES)
async def test_a_framework_finds_that(verdicts: Verdicts, framework: str, sentence: str) -> None:
    found = (await asyncio.shield(verdicts[framework])).get(sentence)
    assert found, f"{sentence} did not run"
    assert not any(found), "\n".join(found)


def test_every_framework_has_enough_to_say() -> None:
    files = {path.stem.removesuffix("_client") for path in FOLDER.glob("*_client.py")}
    assert files == set(SETS)
    assert all(len(sentences(framework)) >= 5 for framework in SETS)
