"""pet_classifier beside plain fastai on two cores: times, errors and memory, as a table and as JSON.

    python benchmarks/two_cores.py [--images DIR] [--rows 1,2,6] [--repeats 3] [--json FILE] [--quick]

Needs a folder of `<breed>_<number>.jpg`, seven a breed or more: --images, or PETS_DIR in the environment. Each
measurement runs in a process of its own, plain fastai and ours in turn; a figure is the median of the repeats unless its
row says otherwise. Imports and the interpreter's start are not timed. Linux or macOS.
"""
import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench import QUICK, SEED, THREADS, Bench, Plan, WorkerError, say
from rows import ROWS


def installed(package):
    try: return version(package)
    except PackageNotFoundError: return None


def processor():
    "The processor's name, and what it knows that matters here"
    file = Path('/proc/cpuinfo')
    lines = [line.partition(':') for line in (file.read_text() if file.exists() else '').splitlines()]
    said = {key.strip(): value.strip() for key, _, value in lines}
    known = [f for f in ('avx2', 'avx512f', 'avx512_bf16', 'amx_bf16') if f in said.get('flags', '').split()]
    return ' '.join([said.get('model name') or platform.processor() or platform.machine(), *known])


def machine(threads=THREADS):
    "Where and with what it was measured"
    packages = ('torch', 'torchvision', 'timm', 'fastai', 'pillow', 'openvino', 'onnxruntime')
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30
    return dict(processor=processor(), cores=os.cpu_count(), memory_gib=round(memory, 1), system=platform.platform(),
                python=platform.python_version(), versions={p: installed(p) for p in packages}, threads=threads, seed=SEED,
                load_before=round(os.getloadavg()[0], 2), date=datetime.now(timezone.utc).isoformat(timespec='seconds'))


def line(row):
    "A row in Markdown"
    ratio = '-' if row['ratio'] is None else f"{row['ratio']:.1f}"
    return f"| {row['row']} | {row['what']} | {row['plain']} | {row['ours']} | {ratio} | {row['asked']} |"


def markdown(result):
    "The rows as a table, and the machine"
    head = ['| row | what | plain fastai | pet_classifier | ratio | asked |', '|---|---|---|---|---|---|']
    on, v = result['machine'], result['machine']['versions']
    where = (f"{on['processor']}, {on['cores']} cores, {on['memory_gib']} GiB, load before {on['load_before']}; "
             f"python {on['python']}, torch {v['torch']}, fastai {v['fastai']}, openvino {v['openvino']}; "
             f"{on['threads']} threads, seed {on['seed']}, {result['repeats']} repeats, {result['seconds']} s in all")
    return '\n'.join([*head, *map(line, result['rows']), '', where])


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', default=os.environ.get('PETS_DIR') or None, help='the folder; default: PETS_DIR')
    parser.add_argument('--rows', default=','.join(map(str, ROWS)), help='numbers, with commas between them; default: all')
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--json', type=Path, help='where to write all that was measured')
    parser.add_argument('--quick', action='store_true', help='little of everything, to see that it runs; its figures say nothing')
    args = parser.parse_args()
    rows = args.rows.split(',')
    if unknown := [r for r in rows if r not in map(str, ROWS)]:
        parser.error(f"no row {', '.join(unknown)}; there are {', '.join(map(str, ROWS))}")
    if not args.images: parser.error('no images: give --images DIR, or set PETS_DIR, to a folder of <breed>_<number>.jpg')
    if not Path(args.images).is_dir(): parser.error(f"no folder '{args.images}'; --images or PETS_DIR names it")
    if args.repeats < 1: parser.error(f'--repeats {args.repeats}: expected at least 1')
    args.rows = [int(r) for r in rows]
    return args


def measure(bench, wanted):
    "The rows that are wanted, as dicts; and what failed, by name"
    rows, failed = [], {}
    for measured in dict.fromkeys(ROWS[r] for r in wanted):
        try:
            for row in map(asdict, measured(bench)):
                if row['row'] not in wanted: continue
                rows.append(row)
                say(line(row))
        except WorkerError as e:
            failed[measured.__name__] = str(e)
            say(str(e))
    return rows, failed


def main():
    args, where, began = arguments(), machine(), time.perf_counter()
    if where['load_before'] > .5: say(f"load average {where['load_before']}: what else is running will be in the times")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the worker is ended, too, and the folders are deleted
    with tempfile.TemporaryDirectory(prefix='two_cores-') as work:
        bench = Bench(Path(args.images).absolute(), Path(work), QUICK if args.quick else Plan(), args.repeats)
        rows, failed = measure(bench, args.rows)
    result = dict(machine=where, repeats=args.repeats, quick=args.quick, seconds=round(time.perf_counter() - began),
                  rows=rows, failed=failed)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=1) + '\n', encoding='utf-8')
    print(markdown(result))
    return 1 if failed else 0


if __name__ == '__main__': sys.exit(main())
