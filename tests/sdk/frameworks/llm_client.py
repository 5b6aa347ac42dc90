"""Simon Willison's `llm`: configured as its documentation says, as a library and from the shell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

MODELS = """
- model_id: kyma
  model_name: qwen-3-32b
  api_base: "{url}/v1"
  api_key_name: kyma
  supports_tools: true
  supports_schema: true
  vision: true
- model_id: kyma-responses
  model_name: qwen-3-32b
  api_base: "{url}/v1"
  api_key_name: kyma
  supports_tools: true
  supports_schema: true
  responses: true
- model_id: kyma-vision
  model_name: gemma-4-31b
  api_base: "{url}/v1"
  api_key_name: kyma
  vision: true
- model_id: kyma-completion
  model_name: llama-3.3-70b
  api_base: "{url}/v1"
  api_key_name: kyma
  completion: true
- model_id: kyma-none
  model_name: none
  api_base: "{url}/v1"
  api_key_name: kyma
"""
PNG = (
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c4944415408d763f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)


@pytest.fixture
def llm(url: str, key: str, tmp_path: Path) -> Any:
    """The library, configured. It reads its folder anew for every model that it is asked for."""
    os.environ["LLM_USER_PATH"] = str(tmp_path)
    (tmp_path / "extra-openai-models.yaml").write_text(MODELS.format(url=url))
    (tmp_path / "keys.json").write_text(json.dumps({"kyma": key}))
    import llm  # noqa: PLC0415 -- it reads the folder's name when it is imported

    return llm


def shell(tmp_path: Path, *arguments: str, given: str | None = None) -> str:
    """What the command line says."""
    done = subprocess.run(
        [sys.executable, "-m", "llm", *arguments],
        env={**os.environ, "LLM_USER_PATH": str(tmp_path)},
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


WAYS = pytest.mark.parametrize("model", ["kyma", "kyma-responses"])


@WAYS
@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_is_answered_and_its_usage_known(llm: Any, model: str, stream: bool) -> None:
    response = llm.get_model(model).prompt("Say hello.", system="Be brief.", stream=stream)
    if stream:
        assert len(list(response)) > 5
    assert "sandbox" in response.text().lower()
    usage = response.usage()
    assert usage.input > 0
    assert usage.output > 0


@WAYS
async def test_an_asynchronous_prompt_is_answered(llm: Any, model: str) -> None:
    pieces = [piece async for piece in llm.get_async_model(model).prompt("Say hello.")]
    assert "sandbox" in "".join(pieces).lower()


@WAYS
@pytest.mark.parametrize("stream", [False, True])
def test_a_chain_calls_a_function_and_reads_its_result(llm: Any, model: str, stream: bool) -> None:
    called: list[int] = []

    def multiply(x: int, y: int) -> str:
        """Multiply two numbers."""
        called.append(x * y)
        return "seventeen degrees"

    chain = llm.get_model(model).chain("What is it?", tools=[multiply], stream=stream)
    assert "seventeen degrees" in chain.text()
    assert len(called) == 1


@WAYS
def test_a_schema_is_honoured(llm: Any, model: str) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "minLength": 1}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    found = json.loads(llm.get_model(model).prompt("Who?", schema=schema).text())
    assert found["name"]
    assert isinstance(found["age"], int)


@WAYS
def test_a_conversation_remembers(llm: Any, model: str) -> None:
    conversation = llm.get_model(model).conversation()
    first = conversation.prompt("Say hello.")
    first.text()
    second = conversation.prompt("Say goodbye.")
    assert "goodbye" in second.text()
    assert second.usage().input > first.usage().input


def test_a_picture_is_shown(llm: Any) -> None:
    picture = llm.Attachment(type="image/png", content=bytes.fromhex(PNG))
    response = llm.get_model("kyma-vision").prompt("What is this?", attachments=[picture])
    assert "1 image" in response.text()


def test_legacy_completions_are_answered(llm: Any) -> None:
    model = llm.get_model("kyma-completion")
    assert model.prompt("Once upon a time", max_tokens=20).text().strip()


def test_a_refusal_is_an_error_with_our_words(llm: Any) -> None:
    with pytest.raises(Exception, match="none"):
        llm.get_model("kyma-none").prompt("Say hello.").text()


def test_the_command_line_prompts_and_chains(llm: Any, tmp_path: Path) -> None:
    assert "kyma-responses" in shell(tmp_path, "models")
    assert "sandbox" in shell(tmp_path, "-m", "kyma", "Say hello.").lower()
    assert "sandbox" in shell(tmp_path, "-m", "kyma", "--no-stream", given="Say hello.").lower()
    function = "def add(x: int, y: int) -> str:\n    'Add.'\n    return 'seventeen degrees'"
    said = shell(tmp_path, "-m", "kyma", "--functions", function, "What is it?")
    assert "seventeen degrees" in said
