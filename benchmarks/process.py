"""Run a command: what it printed and when, its seconds and CPU seconds, and the peak memory of its process tree."""
import os
import resource
import subprocess
import time
from threading import Thread

import psutil


def tree_megabytes(process):
    "Return the memory of `process` and its descendants in MB; pages that they share count once (PSS, Linux)."
    total = 0
    for p in [process, *process.children(recursive=True)]:
        try: total += p.memory_full_info().pss
        except psutil.Error: pass  # it has just ended
    return total/2**20


def cpu_seconds():
    "Return the user and system seconds of all processes that were waited for."
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measured(command, env, accept=(0,), every=1):
    "Return what `command` printed and took, with the variables `env` set, or unset if None; `accept`: exit codes of success."
    full = {k: v for k, v in {**os.environ, 'PYTHONUNBUFFERED': '1', **env}.items() if v is not None}
    lines, peak, cpu, began, words = [], 0, cpu_seconds(), time.time(), list(map(str, command))
    process = psutil.Popen(words, env=full, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors='replace')
    reader = Thread(target=lambda: lines.extend((round(time.time() - began, 2), line.rstrip('\n')) for line in process.stdout))
    reader.start()
    try:
        while process.poll() is None:
            try:
                peak = max(peak, tree_megabytes(process))
                process.wait(every)
            except (psutil.TimeoutExpired, psutil.NoSuchProcess): pass
    finally:
        if process.poll() is None: process.kill()
        process.wait()
        reader.join()
    seconds = time.time() - began
    if process.returncode not in accept:
        said = '\n'.join(text for _, text in lines[-40:])
        raise RuntimeError(f'{" ".join(words)} ended with {process.returncode}:\n{said}')
    used = round(cpu_seconds() - cpu, 2)
    return dict(lines=lines, began=began, seconds=round(seconds, 2), cpu_seconds=used, peak_mb=round(peak))
