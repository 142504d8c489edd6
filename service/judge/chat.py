"""Chat Completions and embeddings on the wire: question → body, body → outcome.

Pure. The body keeps the order of the response schema, because models write properties in that
order; the cache key does not depend on order (`service.judge.key`).
"""

from __future__ import annotations

from math import hypot, inf
from typing import Any, Final

import msgspec

from graders.grade import TokenUsage
from graders.ports import EmbeddingCall, JudgeCall
from service.judge.key import digest_of
from service.judge.outcome import Answer, JsonObject, Vectors
from service.judge.routes import Route
from service.judge.schema import only_json, settles

INSTRUCTION: Final = (
    "Answer with one JSON object and nothing else: no prose, no code fence. "
    "It must satisfy this JSON schema, with its properties in this order:\n"
)


_MOST_TOKENS: Final = 10**8


class EnvelopeError(ValueError):
    """A 2xx answer whose body is not what the API promises."""


def stated_usage(
    prompt: int | None, completion: int | None, total: int | None, cached: int | None
) -> TokenUsage:
    """Return the usage that an upstream states; none at all where an amount cannot be true.

    A negative amount would pay money back, and a huge one would spend everybody's budget.
    """
    prompt, completion, cached = prompt or 0, completion or 0, cached or 0
    usage = TokenUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=total or prompt + completion,
        cached_tokens=cached,
    )
    amounts = (prompt, completion, cached, usage.total_tokens)
    return usage if all(0 <= amount <= _MOST_TOKENS for amount in amounts) else TokenUsage()


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None

    def tokens(self) -> TokenUsage:
        details = self.prompt_tokens_details
        cached = details.cached_tokens if details else None
        return stated_usage(self.prompt_tokens, self.completion_tokens, self.total_tokens, cached)


class _Message(msgspec.Struct):
    content: str | list[dict[str, Any]] | None = None
    refusal: str | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    model: str | None = None
    usage: _Usage | None = None


class _Embedding(msgspec.Struct):
    embedding: list[float]
    index: int = 0


class _Embeddings(msgspec.Struct):
    data: list[_Embedding]
    model: str | None = None
    usage: _Usage | None = None


_COMPLETION: Final = msgspec.json.Decoder(_Completion)
_EMBEDDINGS: Final = msgspec.json.Decoder(_Embeddings)


def sampling(call: JudgeCall) -> JsonObject:
    """Return the stated sampling parameters; null means unstated, 1.0 is the same as 1."""
    return {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in call.sampling_params.items()
        if value is not None
    }


def dropped(call: JudgeCall, route: Route) -> tuple[str, ...]:
    """Return the stated parameters that this route cannot be sent."""
    unsent = route.api == "responses" or not route.seed
    return ("seed",) if unsent and call.sampling_params.get("seed") is not None else ()


def instructed(messages: list[JsonObject], schema: JsonObject) -> list[JsonObject]:
    """Return ``messages`` with the response schema spelled out ahead of them.

    Some servers allow one system message only, so an existing first one is extended.
    """
    text = INSTRUCTION + msgspec.json.encode(schema).decode()
    first = messages[0] if messages else {}
    if first.get("role") in {"system", "developer"} and isinstance(first.get("content"), str):
        return [first | {"content": f"{first['content']}\n\n{text}"}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def chat_body(call: JudgeCall, route: Route, model: str) -> JsonObject:
    """Return the request body of ``POST /chat/completions``."""
    messages: list[JsonObject] = call.messages
    request: JsonObject = {"model": model}
    match route.structured_output:
        case "json_schema":
            named = {"name": call.schema_name, "strict": True, "schema": call.schema}
            request["response_format"] = {"type": "json_schema", "json_schema": named}
        case "json_object":
            messages = instructed(messages, call.schema)
            request["response_format"] = {"type": "json_object"}
        case "prompt":
            messages = instructed(messages, call.schema)
    if not route.developer_role:
        messages = [m | {"role": "system"} if m["role"] == "developer" else m for m in messages]
    request["messages"] = messages
    for name, value in sampling(call).items():
        if name == "max_completions_tokens":
            request[route.max_tokens_field] = value
        elif name not in dropped(call, route):
            request[name] = value
    return request


def chat_answer(raw: bytes, call: JudgeCall, route: Route, model: str) -> Answer:
    """Return what the judge wrote.

    Args:
        raw: Body of a 2xx answer.
        call: The question.
        route: Where it was asked; decides whether prose around the JSON is tolerated.
        model: What to report when the upstream does not say which model answered.

    Raises:
        EnvelopeError: The body is not a chat completion, or one that broke off with an error.
    """
    try:
        completion = _COMPLETION.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EnvelopeError("the body is not a chat completion") from error
    if not completion.choices:
        raise EnvelopeError("the chat completion has no choices")
    choice = completion.choices[0]
    if choice.finish_reason == "error":  # as routers of other upstreams say
        raise EnvelopeError("the chat completion ended in an error")
    return read(
        _text(choice.message.content),
        call,
        route,
        refusal=choice.message.refusal or None,
        finish_reason=choice.finish_reason or "stop",
        model=completion.model or model,
        usage=completion.usage.tokens() if completion.usage else TokenUsage(),
    )


def read(  # noqa: PLR0913 - the parts of a reply
    content: str | None,
    call: JudgeCall,
    route: Route,
    *,
    refusal: str | None,
    finish_reason: str,
    model: str,
    usage: TokenUsage,
) -> Answer:
    """Return the answer, its JSON freed from prose where the route has no structured output."""
    if content is not None and route.structured_output != "json_schema":
        content = only_json(content, call.schema, prompt=_shown(call)) or content
    return Answer(
        content=content,
        refusal=refusal,
        finish_reason=finish_reason,
        model=model,
        usage=usage,
        settles=content is not None and settles(content, call.schema),
        digest=digest_of(content, refusal, finish_reason),
    )


def embeddings_body(call: EmbeddingCall, model: str) -> JsonObject:
    """Return the request body of ``POST /embeddings``."""
    return {"model": model, "input": call.texts, "encoding_format": "float"}


def vectors(raw: bytes, call: EmbeddingCall, model: str) -> Vectors:
    """Return one vector a text, in the order of the call.

    Raises:
        EnvelopeError: The body is not an embeddings list of that length, or a vector has no
            direction: kept, it would fail every grade for as long as the cache holds it.
    """
    try:
        found = _EMBEDDINGS.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EnvelopeError("the body is not a list of embeddings") from error
    ordered = sorted(found.data, key=lambda one: one.index)
    if [one.index for one in ordered] != list(range(len(call.texts))):
        raise EnvelopeError("the list of embeddings does not match the texts")
    if not all(0 < hypot(*one.embedding) < inf for one in ordered):
        raise EnvelopeError("an embedding has no direction")
    all_vectors = tuple(tuple(one.embedding) for one in ordered)
    return Vectors(
        vectors=all_vectors,
        model=found.model or model,
        usage=found.usage.tokens() if found.usage else TokenUsage(),
        digest=digest_of(all_vectors),
    )


def _text(content: str | list[dict[str, Any]] | None) -> str | None:
    if not isinstance(content, list):
        return content
    # Some servers answer in parts.
    texts = [part["text"] for part in content if isinstance(part.get("text"), str)]
    return "".join(texts) if texts else None


def _shown(call: JudgeCall) -> list[str]:
    """Return every text of the prompt."""
    contents = [message["content"] for message in call.messages]
    parts = [part for content in contents if not isinstance(content, str) for part in content]
    texts = [str(part.get("text", "")) for part in parts]
    return [*(content for content in contents if isinstance(content, str)), *texts]
