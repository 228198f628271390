"""A server for the checks beside it: `hone serve` on a free port, ended at the end."""
import contextlib
import pathlib
import re
import signal
import subprocess
import tempfile


@contextlib.contextmanager
def served(hone, *models, token=None, jobs=None):
    """The address of a server of these models, each `DIR` or `NAME=DIR`; with a folder for jobs it tunes them."""
    with tempfile.TemporaryDirectory() as folder:
        command = [hone, "serve", "--port", "0"]
        for model in models:
            command += ["--model", str(model)]
        if token is not None:
            path = pathlib.Path(folder) / "token"
            path.write_text(token + "\n")
            command += ["--token", str(path)]
        if jobs is not None:
            command += ["--jobs", str(jobs)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            said = ""
            for line in process.stderr:
                said += line
                if found := re.search(r"on (http://\S+)", line):
                    break
            else:
                raise SystemExit(f"the server did not start:\n{said}")
            yield found[1]
            process.send_signal(signal.SIGTERM)
            if process.wait(60) != 0:
                raise SystemExit(f"the server ended with {process.returncode}:\n{process.stderr.read()}")
        finally:
            process.kill()
