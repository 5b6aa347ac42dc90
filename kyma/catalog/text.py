"""The text models: what each can do, what it costs, and by which routes it is served.

Prices: the published table of May 2026 (docs page `pricing`, USD per million tokens, exact
cents); rows cut off there come from the vendor's models.dev entries (2026-04-18 for Gemini
and GLM 5.1, 2026-09-04 for Claude Sonnet and Haiku). Cached input costs 10 % of input for
every model, GLM included (docs page `guides/prompt-caching`, later than the changelog's
"50 % off" of April 16). Windows: the vendor's models.dev pull request of 2026-04-18. Later
models: the changelog of April 25 2026 for DeepSeek V4, their creators' model pages for
Kimi K2.6 (262,144 in) and Claude (Opus 4.7 and Sonnet 4.6 one million in, 128,000 out;
Haiku 4.5 200,000 in, 64,000 out).

Costs: a price is the dearest route's cost × 1.35, so every route carries price ÷ 1.35, the
most it may cost; a provider known to charge more is no route here (changelog, April 8 2026:
"if a fallback is too expensive, we remove it"). Upstream ids were checked on models.dev.
"""

from __future__ import annotations

from dataclasses import replace

from kyma.catalog.model import Model
from kyma.money import MARKUP_PERCENT, Usd
from kyma.pricing import PerToken, per_token
from kyma.routing import Route

LAUNCH = 1_775_260_800
"""April 4 2026, 00:00 UTC; the other dates below are days of the changelog, too."""

APRIL_8 = 1_775_606_400
APRIL_10 = 1_775_779_200
APRIL_16 = 1_776_297_600
APRIL_23 = 1_776_902_400
APRIL_25 = 1_777_075_200
MAY_1 = 1_777_593_600

MEBI = 1_048_576
SEES = ("text", "image")
SEES_FILMS = ("text", "image", "video")
"""Google's also hear, but a sound costs more than text there: $1.00 a million tokens for Gemini 2.5
and 3 Flash (ai.google.dev, pricing, 2026-07), which no price here covers. So no sound is sold."""

ALIASES = {
    "best": "qwen-3.6-plus",
    "fast": "qwen-3-32b",
    "code": "kimi-k2.5",
    "reasoning": "deepseek-r1",
    "agent": "kimi-k2.6",
    "vision": "gemma-4-31b",
    "cheap": "glm-4.7-flash",
    "long-context": "gemini-2.5-flash",
    "balanced": "minimax-m2.7",
}
"""The latest published target of each; the last three are ours, from their descriptions."""


def cost_of(price: PerToken) -> PerToken:
    """The most a route may cost at this price: price ÷ 1.35, rounded down."""

    def part(amount: Usd) -> Usd:
        return Usd(amount * 100 // MARKUP_PERCENT)

    return PerToken(
        input=part(price.input),
        output=part(price.output),
        cached=part(price.cached),
        cache_write=part(price.cache_write),
    )


_UNCOSTED = per_token("0", "0")


def _via(*places: tuple[str, str]) -> tuple[Route, ...]:
    """Routes over (provider, upstream id): the first is first choice, the rest layer 1."""
    return tuple(
        Route(provider, upstream, model="", cost=_UNCOSTED, layer=min(place, 1))
        for place, (provider, upstream) in enumerate(places)
    )


def _costed(row: Model) -> Model:
    cost = cost_of(row.price)
    return replace(
        row, routes=tuple(replace(route, model=row.id, cost=cost) for route in row.routes)
    )


_QWEN = (
    Model(
        id="qwen-3.6-plus",
        name="Qwen 3.6 Plus",
        description="Alibaba's flagship and the safest default: strong at everything.",
        owned_by="Alibaba",
        family="qwen",
        price=per_token("0.68", "4.05"),
        context_window=131_072,
        max_output_tokens=32_768,
        routes=_via(
            ("alibaba", "qwen3.6-plus"),
            ("fireworks", "accounts/fireworks/models/qwen3p6-plus"),
            ("together", "Qwen/Qwen3.6-Plus"),
            ("openrouter", "qwen/qwen3.6-plus"),
        ),
        siblings=("qwen-3-coder",),
        substitutes=("kimi-k2.5",),
        best_for="The default when unsure",
        recommended_for=("general", "coding", "reasoning", "writing", "multilingual"),
        recommended=True,
        hot=True,
        reasoning=True,
        cost_grade="premium",
        quality_grade="frontier-open",
        created=LAUNCH,
    ),
    Model(
        id="qwen-3-coder",
        name="Qwen 3 Coder",
        description="A 480B mixture of experts trained for code and tools in repositories.",
        owned_by="Alibaba",
        family="qwen",
        price=per_token("0.68", "2.16"),
        context_window=131_072,
        max_output_tokens=32_768,
        routes=_via(
            ("deepinfra", "Qwen/Qwen3-Coder-480B-A35B-Instruct-Turbo"),
            ("openrouter", "qwen/qwen3-coder"),
        ),
        substitutes=("minimax-m2.7", "deepseek-v4-flash"),
        best_for="Code generation and refactoring",
        recommended_for=("coding", "agent"),
        reasoning=True,
        cost_grade="premium",
        created=LAUNCH,
    ),
    Model(
        id="qwen-3-32b",
        name="Qwen 3 32B",
        description="A small dense model with the lowest measured latency of the catalogue.",
        owned_by="Alibaba",
        family="qwen",
        price=per_token("0.39", "0.81"),
        context_window=32_768,
        max_output_tokens=8_192,
        routes=_via(
            ("groq", "qwen/qwen3-32b"),
            ("deepinfra", "Qwen/Qwen3-32B"),
            ("openrouter", "qwen/qwen3-32b"),
        ),
        substitutes=("gpt-oss-120b", "deepseek-v4-flash"),
        best_for="Interactive use where speed counts",
        recommended_for=("fast", "value", "multilingual", "math"),
        reasoning=True,
        speed_grade="fast",
        quality_grade="efficient",
        created=LAUNCH,
    ),
)

_KIMI = (
    Model(
        id="kimi-k2.6",
        name="Kimi K2.6",
        description="Moonshot's agent model: long chains of tool calls, text and images.",
        owned_by="Moonshot AI",
        family="kimi",
        price=per_token("1.28", "5.40"),
        context_window=262_144,
        max_output_tokens=32_768,
        routes=_via(
            ("moonshot", "kimi-k2.6"),
            ("fireworks", "accounts/fireworks/models/kimi-k2p6"),
            ("deepinfra", "moonshotai/Kimi-K2.6"),
            ("openrouter", "moonshotai/kimi-k2.6"),
        ),
        siblings=("kimi-k2.5",),
        best_for="Tool-heavy agents",
        recommended_for=("agent", "coding", "vision", "reasoning"),
        recommended=True,
        hot=True,
        input_modalities=SEES,
        reasoning=True,
        cost_grade="premium",
        quality_grade="frontier-open",
        created=APRIL_23,
    ),
    Model(
        id="kimi-k2.5",
        name="Kimi K2.5",
        description="The previous Kimi: code and tools over text and images at a lower price.",
        owned_by="Moonshot AI",
        family="kimi",
        price=per_token("0.68", "3.78"),
        context_window=262_144,
        max_output_tokens=32_768,
        routes=_via(
            ("together", "moonshotai/Kimi-K2.5"),
            ("deepinfra", "moonshotai/Kimi-K2.5"),
            ("openrouter", "moonshotai/kimi-k2.5"),
        ),
        best_for="Code generation",
        recommended_for=("coding", "agent", "vision"),
        input_modalities=SEES,
        reasoning=True,
        cost_grade="premium",
        quality_grade="frontier-open",
        created=LAUNCH,
    ),
)

_DEEPSEEK = (
    Model(
        id="deepseek-v4-pro",
        name="DeepSeek V4 Pro",
        description="1.6T parameters, 49B active, one million tokens: reasoning and hard code.",
        owned_by="DeepSeek",
        family="deepseek",
        price=per_token("2.35", "4.70", cached="0.235"),
        context_window=MEBI,
        max_output_tokens=65_536,
        routes=_via(
            ("deepseek", "deepseek-v4-pro"),
            ("fireworks", "accounts/fireworks/models/deepseek-v4-pro"),
            ("deepinfra", "deepseek-ai/DeepSeek-V4-Pro"),
            ("openrouter", "deepseek/deepseek-v4-pro"),
        ),
        siblings=("deepseek-v4-flash",),
        best_for="Top reasoning and complex coding",
        recommended_for=("reasoning", "coding", "math", "long-context"),
        hot=True,
        reasoning=True,
        speed_grade="slow",
        cost_grade="premium",
        quality_grade="frontier-open",
        created=APRIL_25,
    ),
    Model(
        id="deepseek-v4-flash",
        name="DeepSeek V4 Flash",
        description="284B parameters, 13B active, one million tokens at the lowest V4 price.",
        owned_by="DeepSeek",
        family="deepseek",
        price=per_token("0.19", "0.38", cached="0.019"),
        context_window=MEBI,
        max_output_tokens=65_536,
        routes=_via(
            ("deepseek", "deepseek-v4-flash"),
            ("fireworks", "accounts/fireworks/models/deepseek-v4-flash"),
            ("deepinfra", "deepseek-ai/DeepSeek-V4-Flash"),
            ("openrouter", "deepseek/deepseek-v4-flash"),
        ),
        best_for="Volume with long inputs",
        recommended_for=("cheap", "value", "bulk", "long-context"),
        hot=True,
        reasoning=True,
        speed_grade="fast",
        cost_grade="cheap",
        created=APRIL_25,
    ),
    Model(
        # V3.1: its published cost (0.60 / 1.70) and window are the ones behind this row.
        id="deepseek-v3",
        name="DeepSeek V3",
        description="The stable previous generation: general work without visible thinking.",
        owned_by="DeepSeek",
        family="deepseek",
        price=per_token("0.81", "2.30"),
        context_window=163_840,
        max_output_tokens=8_192,
        routes=_via(
            ("deepinfra", "deepseek-ai/DeepSeek-V3.1"),
            ("fireworks", "accounts/fireworks/models/deepseek-v3p1"),
            ("openrouter", "deepseek/deepseek-chat-v3.1"),
        ),
        siblings=("deepseek-v4-flash",),
        substitutes=("minimax-m2.7",),
        best_for="Steady general workloads",
        recommended_for=("general", "writing", "balanced"),
        created=APRIL_8,
    ),
    Model(
        id="deepseek-r1",
        name="DeepSeek R1",
        description="Thinks at length before it answers: mathematics, logic, hard problems.",
        owned_by="DeepSeek",
        family="deepseek",
        price=per_token("0.68", "2.90"),
        context_window=65_536,
        max_output_tokens=32_768,
        routes=_via(
            ("deepinfra", "deepseek-ai/DeepSeek-R1-0528"),
            ("openrouter", "deepseek/deepseek-r1-0528"),
        ),
        siblings=("deepseek-v4-flash",),
        substitutes=("minimax-m2.7",),
        best_for="Hard reasoning",
        recommended_for=("reasoning", "math"),
        recommended=True,
        reasoning=True,
        speed_grade="slow",
        cost_grade="premium",
        created=APRIL_8,
    ),
)

_MINIMAX = (
    Model(
        id="minimax-m2.7",
        name="MiniMax M2.7",
        description="Balanced agent and coding model with a 200K window.",
        owned_by="MiniMax",
        family="minimax",
        price=per_token("0.41", "1.62"),
        context_window=204_800,
        max_output_tokens=32_768,
        routes=_via(
            ("minimax", "MiniMax-M2.7"),
            ("fireworks", "accounts/fireworks/models/minimax-m2p7"),
            ("deepinfra", "MiniMaxAI/MiniMax-M2.7"),
            ("openrouter", "minimax/minimax-m2.7"),
        ),
        siblings=("minimax-m2.5",),
        substitutes=("deepseek-v4-flash",),
        best_for="Quality and speed in balance",
        recommended_for=("balanced", "agent", "coding", "value"),
        reasoning=True,
        created=APRIL_10,
    ),
    Model(
        id="minimax-m2.5",
        name="MiniMax M2.5",
        description="The previous MiniMax, for workloads tuned to it.",
        owned_by="MiniMax",
        family="minimax",
        price=per_token("0.41", "1.62"),
        context_window=196_608,
        max_output_tokens=32_768,
        routes=_via(
            ("minimax", "MiniMax-M2.5"),
            ("together", "MiniMaxAI/MiniMax-M2.5"),
            ("deepinfra", "MiniMaxAI/MiniMax-M2.5"),
            ("openrouter", "minimax/minimax-m2.5"),
        ),
        siblings=("minimax-m2.7",),
        substitutes=("deepseek-v4-flash",),
        best_for="Agents on a budget",
        recommended_for=("balanced", "agent", "value"),
        reasoning=True,
        created=LAUNCH,
    ),
)

_GLM = (
    Model(
        id="glm-5.1",
        name="GLM 5.1",
        description="Long-running coding agent for repository-scale engineering.",
        owned_by="Z.AI",
        family="glm",
        price=per_token("1.89", "5.94"),
        context_window=203_776,
        max_output_tokens=65_536,
        routes=_via(
            ("zai", "glm-5.1"),
            ("fireworks", "accounts/fireworks/models/glm-5p1"),
            ("together", "zai-org/GLM-5.1"),
            ("deepinfra", "zai-org/GLM-5.1"),
            ("openrouter", "z-ai/glm-5.1"),
        ),
        siblings=("glm-4.7-flash",),
        substitutes=("kimi-k2.6", "kimi-k2.5"),
        best_for="Long coding sessions and long answers",
        recommended_for=("coding", "agent", "long-context"),
        reasoning=True,
        speed_grade="slow",
        cost_grade="premium",
        quality_grade="frontier-open",
        created=APRIL_16,
    ),
    Model(
        # Z.AI, Together and Fireworks charge 0.20 or more in: dearer than this price allows.
        id="glm-4.5-air",
        name="GLM 4.5 Air",
        description="Light model for agentic tasks in bulk.",
        owned_by="Z.AI",
        family="glm",
        price=per_token("0.18", "1.15"),
        context_window=131_072,
        max_output_tokens=8_192,
        routes=_via(("openrouter", "z-ai/glm-4.5-air")),
        siblings=("glm-4.7-flash",),
        best_for="Cheap agentic bulk work",
        recommended_for=("cheap", "bulk", "agent"),
        reasoning=True,
        cost_grade="cheap",
        quality_grade="efficient",
        created=APRIL_16,
    ),
    Model(
        id="glm-4.7-flash",
        name="GLM 4.7 Flash",
        description="The lowest price of the catalogue, with a 200K window.",
        owned_by="Z.AI",
        family="glm",
        price=per_token("0.08", "0.54"),
        context_window=203_776,
        max_output_tokens=65_536,
        routes=_via(
            ("deepinfra", "zai-org/GLM-4.7-Flash"),
            ("zai", "glm-4.7-flash"),
            ("openrouter", "z-ai/glm-4.7-flash"),
        ),
        best_for="Cheap throughput with long inputs",
        recommended_for=("cheap", "bulk", "fast", "value"),
        reasoning=True,
        speed_grade="fast",
        cost_grade="cheap",
        quality_grade="efficient",
        created=APRIL_16,
    ),
)

_GOOGLE = (
    Model(
        id="gemini-3-flash",
        name="Gemini 3 Flash",
        description="Fast multimodal model: text, images and video, one million tokens.",
        owned_by="Google",
        family="gemini",
        price=per_token("0.68", "4.05"),
        context_window=MEBI,
        max_output_tokens=8_192,
        routes=_via(
            ("google", "gemini-3-flash-preview"),
            ("openrouter", "google/gemini-3-flash-preview"),
        ),
        siblings=("gemini-2.5-flash",),
        best_for="Multimodal work at speed",
        recommended_for=("vision", "fast", "long-context", "multilingual"),
        input_modalities=SEES_FILMS,
        reasoning=True,
        speed_grade="fast",
        cost_grade="premium",
        release_stage="preview",
        created=LAUNCH,
    ),
    Model(
        id="gemini-2.5-flash",
        name="Gemini 2.5 Flash",
        description="One million tokens of text, images and video.",
        owned_by="Google",
        family="gemini",
        price=per_token("0.41", "3.38"),
        context_window=MEBI,
        max_output_tokens=8_192,
        routes=_via(
            ("google", "gemini-2.5-flash"),
            ("openrouter", "google/gemini-2.5-flash"),
        ),
        best_for="Long documents",
        recommended_for=("long-context", "vision", "multilingual", "fast"),
        recommended=True,
        input_modalities=SEES_FILMS,
        reasoning=True,
        speed_grade="fast",
        created=LAUNCH,
    ),
    Model(
        id="gemma-4-31b",
        name="Gemma 4 31B",
        description="Google's open model: the cheapest strong one that sees images.",
        owned_by="Google",
        family="gemma",
        price=per_token("0.19", "0.54"),
        context_window=131_072,
        max_output_tokens=8_192,
        routes=_via(
            ("deepinfra", "google/gemma-4-31B-it"),
            ("openrouter", "google/gemma-4-31b-it"),
        ),
        best_for="Cheap image understanding",
        recommended_for=("vision", "cheap", "value"),
        recommended=True,
        input_modalities=SEES,
        cost_grade="cheap",
        created=LAUNCH,
    ),
)

_OPEN = (
    Model(
        id="gpt-oss-120b",
        name="GPT-OSS 120B",
        description="OpenAI's open-weight reasoning model, served very fast.",
        owned_by="OpenAI",
        family="gpt-oss",
        price=per_token("0.20", "0.81"),
        context_window=131_072,
        max_output_tokens=8_192,
        routes=_via(
            ("groq", "openai/gpt-oss-120b"),
            ("fireworks", "accounts/fireworks/models/gpt-oss-120b"),
            ("together", "openai/gpt-oss-120b"),
            ("deepinfra", "openai/gpt-oss-120b"),
            ("openrouter", "openai/gpt-oss-120b"),
        ),
        substitutes=("deepseek-v4-flash",),
        best_for="Fast reasoning at a low price",
        recommended_for=("fast", "cheap", "reasoning", "bulk", "math"),
        reasoning=True,
        speed_grade="fast",
        cost_grade="cheap",
        created=LAUNCH,
    ),
    Model(
        id="llama-3.3-70b",
        name="Llama 3.3 70B",
        description="Meta's dense model: predictable, fast, widely known.",
        owned_by="Meta",
        family="llama",
        price=per_token("1.19", "1.19"),
        context_window=131_072,
        max_output_tokens=8_192,
        routes=_via(
            ("groq", "llama-3.3-70b-versatile"),
            ("together", "meta-llama/Llama-3.3-70B-Instruct-Turbo"),
            ("deepinfra", "meta-llama/Llama-3.3-70B-Instruct-Turbo"),
            ("openrouter", "meta-llama/llama-3.3-70b-instruct"),
        ),
        substitutes=("gpt-oss-120b", "deepseek-v4-flash"),
        best_for="General chat without thinking",
        recommended_for=("general", "fast", "writing"),
        speed_grade="fast",
        created=LAUNCH,
    ),
)

# Cache writes cost 1.25 × input, Anthropic's published rule for five minutes.
_CLAUDE = (
    Model(
        id="claude-opus-4-7",
        name="Claude Opus 4.7",
        description="Anthropic's largest model: long agentic work and hard code.",
        owned_by="Anthropic",
        family="claude",
        price=per_token("6.75", "33.75", cached="0.675", cache_write="8.4375"),
        context_window=1_000_000,
        max_output_tokens=128_000,
        routes=_via(
            ("anthropic", "claude-opus-4-7"),
            ("openrouter", "anthropic/claude-opus-4.7"),
        ),
        siblings=("claude-sonnet-4-6",),
        best_for="The hardest agentic and coding work",
        recommended_for=("coding", "agent", "reasoning", "writing"),
        input_modalities=SEES,
        sampling=False,
        reasoning=True,
        speed_grade="slow",
        cost_grade="premium",
        quality_grade="frontier-open",
        created=MAY_1,
    ),
    Model(
        id="claude-sonnet-4-6",
        name="Claude Sonnet 4.6",
        description="Anthropic's everyday model for code, agents and writing.",
        owned_by="Anthropic",
        family="claude",
        price=per_token("4.05", "20.25", cache_write="5.0625"),
        context_window=1_000_000,
        max_output_tokens=128_000,
        routes=_via(
            ("anthropic", "claude-sonnet-4-6"),
            ("openrouter", "anthropic/claude-sonnet-4.6"),
        ),
        siblings=("claude-haiku-4-5",),
        best_for="Coding agents and careful writing",
        recommended_for=("coding", "agent", "writing"),
        input_modalities=SEES,
        reasoning=True,
        cost_grade="premium",
        quality_grade="frontier-open",
        created=MAY_1,
    ),
    Model(
        id="claude-haiku-4-5",
        name="Claude Haiku 4.5",
        description="Anthropic's small model: quick answers and light agents.",
        owned_by="Anthropic",
        family="claude",
        price=per_token("1.35", "6.75", cache_write="1.6875"),
        context_window=200_000,
        max_output_tokens=64_000,
        routes=_via(
            ("anthropic", "claude-haiku-4-5"),
            ("openrouter", "anthropic/claude-haiku-4.5"),
        ),
        substitutes=("kimi-k2.5",),
        best_for="Quick, careful answers",
        recommended_for=("fast", "writing"),
        input_modalities=SEES,
        reasoning=True,
        speed_grade="fast",
        cost_grade="premium",
        created=MAY_1,
    ),
)

TEXT_MODELS: tuple[Model, ...] = tuple(
    _costed(row)
    for row in (*_QWEN, *_KIMI, *_DEEPSEEK, *_MINIMAX, *_GLM, *_GOOGLE, *_OPEN, *_CLAUDE)
)
"""Every text model, in the order `/v1/models` lists them."""
