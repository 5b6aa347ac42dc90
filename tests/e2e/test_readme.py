"""What the README shows works as it stands there, and what `make up` prints works as printed."""

from __future__ import annotations

import asyncio
import json
import re
import sys

from adapters.cli import curl_line
from adapters.settings import ROOT
from tests.e2e.conftest import Running
from tests.e2e.stack import register


async def run(*argv: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    return out.decode()


async def test_the_readmes_python_example_runs(running: Running) -> None:
    readme = (ROOT / "README.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    key = (await register(running.gateway.url))["api_key"]
    program = example.replace("http://127.0.0.1:8080", running.gateway.url).replace("ky-…", key)
    assert key in program
    said = await run(sys.executable, "-c", program)
    assert "sandbox answer" in said
    assert float(said.split()[-1]) > 0


async def test_the_printed_curl_line_works_in_a_shell(running: Running) -> None:
    key = (await register(running.gateway.url))["api_key"]
    answer = json.loads(await run("sh", "-c", curl_line(f"{running.gateway.url}/v1", key)))
    assert answer["choices"][0]["message"]["content"]


def test_every_route_of_the_readme_exists() -> None:
    served = (ROOT / "adapters" / "http").glob("*.py")
    code = "\n".join(path.read_text() for path in served)
    readme = (ROOT / "README.md").read_text()
    for path in re.findall(r"`(?:GET|POST|DELETE)? ?(?:/v1)?(/[a-z]+/?[a-z/]*)", readme):
        last = path.rstrip("/").split("/")[-1]
        assert last in code, path
