"""The fine-tuning part of OpenAI's Python client against a server of hone's.

usage: openai_fine_tuning.py HONE MODEL        MODEL: a directory with a chat template

versions: Python 3.11, openai 2.54.0 and 3.54.0

Starts `hone serve --jobs` on a free port, uploads files, tunes by imitation and by preferences, cancels, and ends with 1 at the first answer that is not as expected.
"""
import io
import json
import sys
import tempfile
import time

import openai

from server import served

hone, directory = sys.argv[1:3]


def lines(rows):
    return ("rows.jsonl", io.BytesIO("".join(json.dumps(row) + "\n" for row in rows).encode()))


def turn(role, content):
    return {"role": role, "content": content}


questions = [turn("user", f"What comes after {i}?") for i in range(24)]
conversations = [{"messages": [question, turn("assistant", f"It is {i + 1}.")]} for i, question in enumerate(questions)]
preferences = [
    {"input": {"messages": [question]}, "preferred_output": [turn("assistant", f"It is {i + 1}.")],
     "non_preferred_output": [turn("assistant", "I do not know.")]} for i, question in enumerate(questions)]

with tempfile.TemporaryDirectory() as folder, served(hone, f"chat={directory}", jobs=folder) as base:
    client = openai.OpenAI(base_url=f"{base}/v1", api_key="any", max_retries=0)
    jobs = client.fine_tuning.jobs

    def ended(job):
        while job.status not in ("succeeded", "failed", "cancelled"):
            time.sleep(0.2)
            job = jobs.retrieve(job.id)
        return job

    # Files: up, listed, read, down; a bad line is named
    file = client.files.create(file=lines(conversations), purpose="fine-tune")
    assert file.object == "file" and file.purpose == "fine-tune" and file.filename == "rows.jsonl"
    assert [found.id for found in client.files.list()] == [file.id]
    assert client.files.content(file.id).read().count(b"\n") == 24
    try:
        client.files.create(file=lines([*conversations, {"messages": []}]), purpose="fine-tune")
        raise AssertionError("an empty conversation is taken")
    except openai.BadRequestError as error:
        assert "line 25" in error.message and error.code == "invalid_file_format", error

    # A supervised job, its events and its model
    job = jobs.create(model="chat", training_file=file.id, suffix="counting", seed=3,
                      method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 8}}})
    assert job.status == "validating_files" and job.method.supervised.hyperparameters.n_epochs == 2
    job = ended(job)
    assert job.status == "succeeded" and job.error is None, job
    assert job.fine_tuned_model == f"ft:chat:counting:{job.id.removeprefix('ftjob-')}"
    events = list(jobs.list_events(job.id, limit=5))
    steps = sorted(event.data["step"] for event in events if event.type == "metrics" and "train_loss" in event.data)
    assert steps == [1, 2, 3, 4, 5, 6], steps
    assert [found.fine_tuned_model_checkpoint for found in jobs.checkpoints.list(job.id)] == [job.fine_tuned_model]
    table = client.files.content(job.result_files[0]).text
    assert table.startswith("step,") and len(table.splitlines()) > 6
    answer = client.chat.completions.create(model=job.fine_tuned_model, messages=[questions[0]], max_tokens=8, seed=1)
    assert answer.model == job.fine_tuned_model
    assert job.fine_tuned_model in [model.id for model in client.models.list()]

    # Preferences
    pairs = client.files.create(file=lines(preferences), purpose="fine-tune")
    job = jobs.create(model="chat", training_file=pairs.id,
                      method={"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2, "n_epochs": 1}}})
    job = ended(job)
    assert job.status == "succeeded" and job.method.dpo.hyperparameters.beta == 0.2, job

    # One that is given up
    job = jobs.create(model="chat", training_file=file.id, hyperparameters={"n_epochs": 1000, "batch_size": 1})
    assert jobs.cancel(job.id).status == "cancelled"
    assert [found.status for found in jobs.list()] == ["cancelled", "succeeded", "succeeded"]
    try:
        jobs.create(model="chat", training_file="file-absent")
        raise AssertionError("an absent file is taken")
    except openai.BadRequestError as error:
        assert error.param == "training_file", error
    assert client.files.delete(file.id).deleted

print("openai", openai.__version__, "fine-tuning: as expected")
