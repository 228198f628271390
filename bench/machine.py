"""The machine, what runs on it beside a measurement, and running a command while both are watched. Linux; what it does not say is None."""
import json
import os
import pathlib
import platform
import signal
import subprocess
import tempfile
import threading
import time

# Which share of the cores other programs may take during a command. Programs whose threads wait for each other lose far more than this share
DISTURBED = 0.1


def read(path):
    try:
        return pathlib.Path(path).read_text()
    except OSError:
        return ""


def described(hone):
    """Processor, memory and settings on which speed depends."""
    doctor = json.loads(subprocess.run([hone, "doctor", "--quick", "--json"], capture_output=True, text=True, check=True).stdout)
    pages = read("/sys/kernel/mm/transparent_hugepage/enabled")
    return {
        "processor": doctor["processor"], "cores": os.cpu_count(), "instruction_set": doctor["chosen"],
        "in_hardware": [s["name"] for s in doctor["instruction_sets"] if s["here"] == "in hardware"],
        "memory_gb": round(doctor["memory_bytes"] / 1e9, 1), "system": f"{platform.system()} {platform.release()}",
        "huge_pages": pages.split("[")[1].split("]")[0] if "[" in pages else None,
    }


def busy_seconds():
    """Seconds of processor time that was not idle since the start, time taken by the host included."""
    words = read("/proc/stat").split("\n")[0].split()
    if not words:
        return None
    user, nice, system, _idle, _wait, irq, soft, steal = map(int, words[1:9])
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


def others_share(seconds=1.0):
    """Which share of all cores is in use now."""
    before = busy_seconds()
    time.sleep(seconds)
    return None if before is None else (busy_seconds() - before) / seconds / os.cpu_count()


def wait_until_quiet(seconds):
    """Waits until the machine is hardly in use, at most so long; the seconds that are left."""
    end = time.monotonic() + seconds
    while seconds > 0 and (others_share() or 0.0) > DISTURBED:
        time.sleep(4)
        seconds = end - time.monotonic()
    return max(seconds, 0.0)


def run(command, folder, environment, limit):
    """Runs a command. What it printed last as JSON, or {"error"}; with wall_seconds, max_rss_bytes and others, the share of the cores
    that was in use for something else meanwhile."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        before, start = busy_seconds(), time.monotonic()
        try:
            child = subprocess.Popen(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=errors, start_new_session=True)
        except OSError as error:
            return {"error": str(error)}
        timer = threading.Timer(limit, lambda: os.killpg(child.pid, signal.SIGKILL))
        timer.start()
        try:
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:
            os.killpg(child.pid, signal.SIGKILL)
            raise
        finally:
            timer.cancel()
        child.returncode = os.waitstatus_to_exitcode(status)
        wall = time.monotonic() - start
        out.seek(0)
        errors.seek(0)
        printed, said = out.read().strip().splitlines(), errors.read().strip()
    if child.returncode:
        because = f"stopped after {limit:.0f} s" if wall >= limit else f"ended with {child.returncode}"
        told = [line.strip() for line in said.splitlines() if line.strip()]
        # An error of hone is the first line, the one of a Python program the last
        told = next((line for line in told if line.startswith("error:")), told[-1] if told else "nothing was said")
        return {"error": f"{because}: {told[:300]}"}
    try:
        found = json.loads(printed[-1])
    except (IndexError, ValueError):
        return {"error": "printed no JSON"}
    others = None
    if before is not None:
        own = usage.ru_utime + usage.ru_stime
        others = round(max(0.0, busy_seconds() - before - own) / wall / os.cpu_count(), 3)
    # ru_maxrss is in KiB on Linux
    return found | {"wall_seconds": round(wall, 2), "max_rss_bytes": usage.ru_maxrss * 1024, "others": others}
