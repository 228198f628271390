"""litellm against a server of hone's: replies, streams, embeddings and text completions through its OpenAI provider.

usage: litellm_client.py HONE MODEL        MODEL: a directory with a chat template

versions: Python 3.11, litellm 1.106.2
"""
import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm

litellm.suppress_debug_info = True

from server import served

hone, directory = sys.argv[1:3]
token = "0123456789abcdef0123456789abcdef"
with served(hone, f"here={directory}", token=token) as base:
    where = dict(api_base=f"{base}/v1", api_key=token)
    ask = dict(model="openai/here", messages=[{"role": "user", "content": "Once upon a time"}], max_tokens=24, seed=7, **where)
    whole = litellm.completion(**ask)
    content = whole.choices[0].message.content
    assert content and whole.usage.completion_tokens > 0
    parts = list(litellm.completion(**ask, stream=True))
    assert "".join(part.choices[0].delta.content or "" for part in parts) == content
    text = litellm.text_completion(model="text-completion-openai/here", prompt="Once upon a time", max_tokens=8, seed=1, **where)
    assert text.choices[0].text
    vector = litellm.embedding(model="openai/here", input=["Once upon a time"], **where).data[0]["embedding"]
    assert len(vector) > 0
    try:
        litellm.completion(**{**ask, "api_key": "wrong"})
        raise SystemExit("a wrong token was let in")
    except litellm.AuthenticationError:
        pass
print("litellm ok")
