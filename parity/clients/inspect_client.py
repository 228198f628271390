"""inspect-ai against a server of hone's, through its provider for OpenAI-compatible servers.

usage: inspect_client.py HONE MODEL        MODEL: a directory with a chat template

versions: Python 3.11, inspect-ai 0.3.285, openai 3.54.0

Evaluates a task of generation and one of multiple choice, written here: every sample is answered, one at a time and several at once with the
same answers, with log-probabilities and usage as the server says them. Ends with 1 at the first answer that is not as expected.
"""
import os
import sys
import tempfile

import openai
from inspect_ai import Task, eval as evaluate
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig, get_model
from inspect_ai.scorer import choice, includes
from inspect_ai.solver import generate, multiple_choice, system_message

from server import served

hone, directory = sys.argv[1:3]
token = "0123456789abcdef0123456789abcdef"
questions = [f"Name {what}." for what in ("a colour", "a town", "an animal", "a number", "a friend", "a food")]
system = "Answer in one sentence."
asked = GenerateConfig(max_tokens=24, seed=7, temperature=1.0, logprobs=True, top_logprobs=3)


def completions(task, model, folder, connections):
    [log] = evaluate(task, model=model, max_connections=connections, log_dir=folder, display="none", fail_on_error=True)
    assert log.status == "success", log.error
    assert len(log.samples) == len(task.dataset)
    return log, {sample.id: sample.output for sample in log.samples}


with tempfile.TemporaryDirectory() as folder, served(hone, f"here={directory}", token=token) as base:
    os.environ["HONE_BASE_URL"], os.environ["HONE_API_KEY"] = f"{base}/v1", token
    client = openai.OpenAI(base_url=f"{base}/v1", api_key=token, max_retries=0)
    model = get_model("openai-api/hone/here", config=asked)

    dataset = [Sample(id=str(i), input=question, target="the") for i, question in enumerate(questions)]
    task = Task(dataset=dataset, solver=[system_message(system), generate()], scorer=includes())
    log, alone = completions(task, model, folder, connections=1)
    _, together = completions(task, model, folder, connections=6)
    assert {i: output.completion for i, output in alone.items()} == {i: output.completion for i, output in together.items()}
    for sample in log.samples:
        messages = [{"role": "system", "content": system}, {"role": "user", "content": questions[int(sample.id)]}]
        same = client.chat.completions.create(model="here", messages=messages, max_tokens=24, seed=7, temperature=1.0, logprobs=True, top_logprobs=3)
        output = sample.output
        assert output.completion == same.choices[0].message.content, (output.completion, same)
        assert output.usage.output_tokens == same.usage.completion_tokens and output.usage.input_tokens == same.usage.prompt_tokens
        assert output.stop_reason in ("stop", "max_tokens"), output.stop_reason
        kept = [token.logprob for token in output.choices[0].logprobs.content]
        assert kept == [token.logprob for token in same.choices[0].logprobs.content], "log-probabilities to the bit"
        expected = "C" if "the" in output.completion.lower() else "I"
        assert sample.scores["includes"].value == expected, sample.scores

    options = [Sample(id=str(i), input=question, choices=["red", "blue", "green"], target="A") for i, question in enumerate(questions)]
    log, outputs = completions(Task(dataset=options, solver=multiple_choice(), scorer=choice()), model, folder, connections=4)
    assert all(output.usage.output_tokens > 0 for output in outputs.values())
    assert log.results.scores[0].metrics["accuracy"].value is not None

    # A wrong token is an error of the evaluation, not an empty answer
    [refused] = evaluate(task, model=get_model("openai-api/hone/here", config=asked, api_key="wrong-wrong-wrong-wrong"), log_dir=folder, display="none", max_retries=0)
    assert refused.status == "error" and "401" in str(refused.error.message), refused.error
print("inspect-ai ok")
