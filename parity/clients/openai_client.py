"""The Python client of OpenAI's interface against a server of hone's.

usage: openai_client.py HONE MODEL        MODEL: a directory with a chat template

versions: Python 3.11, openai 2.54.0 and 3.54.0

Starts `hone serve` on a free port with a token, asks for what the client can, and ends with 1 at the first answer that is not as expected.
"""
import math
import sys

import openai

from server import served

hone, directory = sys.argv[1:3]
token = "0123456789abcdef0123456789abcdef"
talk = [{"role": "system", "content": "Tell a story."}, {"role": "user", "content": "Once upon a time"}]


def refused(kind, code, call):
    try:
        call()
    except kind as error:
        assert error.code == code, error
        return error
    raise AssertionError(f"expected {kind.__name__}")


with served(hone, directory, token=token) as base:
    client = openai.OpenAI(base_url=f"{base}/v1", api_key=token, max_retries=0)
    name = client.models.list().data[0].id
    assert client.models.retrieve(name).id == name

    # Replies: seeds, several, log-probabilities, usage
    ask = dict(model=name, messages=talk, max_tokens=24, seed=7)
    one = client.chat.completions.create(**ask, logprobs=True, top_logprobs=5)
    again = client.chat.completions.create(**ask)
    content = one.choices[0].message.content
    assert content and content == again.choices[0].message.content, "a seed gives one answer"
    assert one.choices[0].finish_reason in ("stop", "length")
    assert one.usage.total_tokens == one.usage.prompt_tokens + one.usage.completion_tokens
    tokens = one.choices[0].logprobs.content
    assert bytes(b for t in tokens for b in t.bytes).decode("utf-8", "replace").strip() == content.strip()
    for t in tokens:
        assert len(t.top_logprobs) == 5 and t.logprob <= t.top_logprobs[0].logprob <= 0
        assert sum(math.exp(top.logprob) for top in t.top_logprobs) <= 1 + 1e-6
    several = client.chat.completions.create(**ask, n=3)
    texts = [choice.message.content for choice in several.choices]
    assert texts[0] == content and len(set(texts)) > 1, "the first of several is the single one"

    # Streams: the same text in parts, the role first, usage last
    parts = list(client.chat.completions.create(**ask, n=3, stream=True, stream_options={"include_usage": True}))
    assert all(part.choices[0].delta.role == "assistant" for part in parts[:3])
    assert parts[-1].choices == [] and parts[-1].usage.completion_tokens == several.usage.completion_tokens
    streamed, finishes = [""] * 3, [None] * 3
    for part in parts[:-1]:
        for choice in part.choices:
            streamed[choice.index] += choice.delta.content or ""
            finishes[choice.index] = choice.finish_reason or finishes[choice.index]
    assert streamed == texts, "a stream is the same answer"
    assert finishes == [choice.finish_reason for choice in several.choices]
    # Stop texts, bias
    word = content.split()[2]
    stopped = client.chat.completions.create(**ask, stop=[word, "\0"]).choices[0]
    assert stopped.finish_reason == "stop" and stopped.message.content == content[: content.index(word)]
    # The client's own accumulation takes answers that ended by themselves
    with client.chat.completions.stream(**ask, stop=[word]) as stream:
        assert stream.get_final_completion().choices[0].message.content == stopped.message.content
    biased = client.chat.completions.create(**{**ask, "max_tokens": 4}, logit_bias={"300": 100}, logprobs=True)
    assert len({t.token for t in biased.choices[0].logprobs.content}) == 1
    other = client.chat.completions.create(**ask, temperature=0, extra_body={"top_k": 1, "repetition_penalty": 1.2})
    assert other.choices[0].message.content

    # Completions: forms of prompts, echo, log-probabilities
    prompt = "Once upon a time"
    echoed = client.completions.create(model=name, prompt=prompt, echo=True, max_tokens=1, logprobs=2, temperature=0)
    choice = echoed.choices[0]
    assert choice.text.startswith(prompt) and choice.logprobs.token_logprobs[0] is None
    assert len(choice.logprobs.tokens) == echoed.usage.prompt_tokens + 1
    for number, top in list(zip(choice.logprobs.token_logprobs, choice.logprobs.top_logprobs))[1:]:
        assert len(top) in (2, 3) and number in top.values()
    both = client.completions.create(model=name, prompt=[prompt, "The"], max_tokens=8, seed=1, logprobs=0)
    alone = client.completions.create(model=name, prompt=prompt, max_tokens=8, seed=1, logprobs=0)
    assert both.choices[0].text == alone.choices[0].text
    assert both.choices[0].logprobs.token_logprobs == alone.choices[0].logprobs.token_logprobs, "to the bit"
    text = "".join(part.choices[0].text for part in client.completions.create(model=name, prompt=prompt, max_tokens=8, seed=1, stream=True))
    assert text == alone.choices[0].text

    # Embeddings: the client asks for base64 by itself
    for form in ("float", "base64"):
        vector = client.embeddings.create(model=name, input=[prompt], encoding_format=form).data[0].embedding
        if form == "float":
            assert abs(math.hypot(*vector) - 1) < 1e-5
    assert len(client.embeddings.create(model=name, input=[prompt, "The"]).data) == 2

    # Errors arrive as the client's own kinds
    refused(openai.NotFoundError, "model_not_found", lambda: client.chat.completions.create(**{**ask, "model": "gpt-4"}))
    refused(openai.BadRequestError, None, lambda: client.chat.completions.create(**ask, n=65))
    refused(openai.BadRequestError, "context_length_exceeded", lambda: client.completions.create(model=name, prompt="word " * 5000))
    error = refused(
        openai.BadRequestError,
        "unsupported_parameter",
        lambda: client.chat.completions.create(**ask, response_format={"type": "json_object"}),
    )
    assert error.param == "response_format"
    stranger = openai.OpenAI(base_url=f"{base}/v1", api_key="wrong", max_retries=0)
    refused(openai.AuthenticationError, "invalid_api_key", lambda: stranger.models.list())
print("openai", openai.__version__, "ok")
