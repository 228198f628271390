"""lm-evaluation-harness against a server of hone's, with the log-likelihoods of `hone logprobs` as the truth.

usage: lm_eval_client.py HONE MODEL        MODEL: a directory with a tokenizer.json

versions: Python 3.11, lm_eval 0.4.13 (with its extra `api`), datasets 5.2.0

Runs a task of multiple choice and one of generation, written here, offline and without torch, through `local-completions` with the server's
own tokenizer. Accuracies hide mistakes, so each option's log-likelihood is compared: to 1e-6 with `hone logprobs`, and to the bit between
one request at a time and batches of several at once. Ends with 1 at the first difference.
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
import lm_eval
from lm_eval.tasks import TaskManager

from server import served

hone, model = sys.argv[1], pathlib.Path(sys.argv[2])
questions = [
    ("Once upon a time, there was a little", [" girl named Lily.", " bird.", " of the and was."], 0),
    ("The cat sat on the", [" mat", " moon, and it was very happy to see its friend the dog again"], 0),
    ("Tom was sad. His mom gave him a big", [" hug", " xylophone", " \u6c34"], 0),
    ("One day", [", the sun", " day day"], 0),
]
choice_task = """
task: here_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{options}}}}"
doc_to_target: answer
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""
text_task = """
task: here_text
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{options[0]}}}}"
generation_kwargs: {{until: ["\\n", ".", "!", "?", "never said"], max_gen_toks: 24}}
metric_list: [{{metric: exact_match}}]
"""


def without_bos(folder):
    """The model with a tokenizer that adds nothing, since the harness asks for tokens without special ones."""
    copy = folder / "model"
    shutil.copytree(model, copy)
    path = copy / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["post_processor"] = None
    path.write_text(json.dumps(tokenizer))
    return copy


def expected(copy, folder):
    """Log-likelihoods of all options, as `hone logprobs` has them."""
    def ids_and_numbers(texts):
        path = folder / "texts.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        command = [hone, "logprobs", "--model", copy, "--input", path, "--json"]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        return [json.loads(line) for line in lines]

    before = {question: len(row["ids"]) for (question, *_), row in zip(questions, ids_and_numbers([q for q, *_ in questions]))}
    pairs = [(question, option) for question, options, _ in questions for option in options]
    rows = ids_and_numbers([question + option for question, option in pairs])
    return {pair: sum(row["logprobs"][before[pair[0]] :]) for pair, row in zip(pairs, rows)}


def evaluated(base, tasks, **settings):
    arguments = {"model": "here", "base_url": f"{base}/v1/completions", "tokenizer_backend": "remote", "max_length": 512, **settings}
    result = lm_eval.simple_evaluate(
        model="local-completions", model_args=arguments, tasks=["here_choice", "here_text"], task_manager=tasks, log_samples=True, bootstrap_iters=0)
    by_question = lambda task: {sample["doc"]["question"]: sample["filtered_resps"] for sample in result["samples"][task]}
    return by_question("here_choice"), by_question("here_text")


with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps({"question": q, "options": o, "answer": a}) + "\n" for q, o, a in questions))
    (folder / "tasks").mkdir()
    for task, text in (("choice", choice_task), ("text", text_task)):
        (folder / "tasks" / f"{task}.yaml").write_text(text.format(data=data))
    tasks = TaskManager(include_path=str(folder / "tasks"), include_defaults=False)
    copy = without_bos(folder)
    truth = expected(copy, folder)
    with served(hone, f"here={copy}") as base:
        alone = evaluated(base, tasks, num_concurrent=1, batch_size=1)
        together = evaluated(base, tasks, num_concurrent=4, batch_size=3)
    assert alone == together, f"batches change answers:\n{alone}\n{together}"
    worst = 0.0
    for question, options, _ in questions:
        for option, (number, _greedy) in zip(options, alone[0][question], strict=True):
            worst = max(worst, abs(float(number) - truth[question, option]))
    assert worst < 1e-6, worst
    assert all(text for texts in alone[1].values() for text in texts)
print("lm_eval", lm_eval.__version__, f"ok: log-likelihoods differ by at most {worst:.1e}")
