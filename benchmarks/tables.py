"""Many images to one Parquet table: images/s, peak memory, and a run that is killed at the half and made again.

    PETS_DIR=... python benchmarks/tables.py [--images 20000] [--threads 2] [--engine auto]

The images of PETS_DIR are tiled: links with new names in a temporary folder. Each run is a process of its own. Prints JSON;
exit code 1 if the table of the killed run is not that of the other. POSIX only.
"""
import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def make_bundle(images, folder):
    from pet_classifier.data.images import list_images
    from pet_classifier.data.labels import label_by_name
    from pet_classifier.data.loaders import loaders
    from pet_classifier.data.splits import random_split
    from pet_classifier.model.bundle_writer import save_bundle
    from pet_classifier.training.head import fit_head
    from pet_classifier.training.learner import pet_learner
    learn = pet_learner(loaders(random_split(label_by_name(list_images(images)), 0.3, seed=2), size=224), 'efficientnet_lite0')
    with learn.no_logging(): fit_head(learn)
    return save_bundle(learn, folder)


def tiled(images, folder, n):
    folder.mkdir()
    originals = sorted(Path(images).glob('*.jpg'))
    for i in range(n):
        original = originals[i % len(originals)].absolute()
        (folder/f"{i:07}_{original.name}").symlink_to(original)
    return folder


def child(bundle, images, out, engine):
    "One run: its seconds and its peak memory, before and after"
    from pet_classifier.deploy.predictor import Predictor
    from pet_classifier.deploy.tables import expand_files, predict_table
    def peak(): return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024)
    files, predictor = expand_files([images]), Predictor(bundle, engine)
    before, began = peak(), time.perf_counter()
    problems = predict_table(predictor, files, out, say=lambda text: print(text, file=sys.stderr))
    print(json.dumps(dict(images=len(files), problems=problems, seconds=round(time.perf_counter()-began, 1),
                          megabytes_before=before, megabytes_at_peak=peak())))


def run(args, *words, kill_at=None):
    "A process with `words`: what it printed; killed once there are `kill_at` parts"
    env = os.environ | dict(OMP_NUM_THREADS=str(args.threads))
    command = [sys.executable, __file__, '--child', *map(str, words), args.engine]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)  # noqa: S603  our own words
    parts = words[-1].with_name(f'.{words[-1].name}.parts')
    while kill_at and process.poll() is None:
        if len(list(parts.glob('part-*'))) >= kill_at:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return len(list(parts.glob('part-*')))
        time.sleep(0.02)
    return json.loads(process.communicate()[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', type=int, default=20_000)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--engine', default='auto')
    parser.add_argument('--child', nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child: return child(*args.child)
    import pyarrow.parquet as pq
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        bundle = make_bundle(os.environ['PETS_DIR'], folder/'model')
        few = run(args, bundle, tiled(os.environ['PETS_DIR'], folder/'few', args.images//10), folder/'few.parquet')
        many = tiled(os.environ['PETS_DIR'], folder/'many', args.images)
        whole = run(args, bundle, many, folder/'whole.parquet')
        parts = run(args, bundle, many, folder/'killed.parquet', kill_at=args.images//2000)
        resumed = run(args, bundle, many, folder/'killed.parquet')
        one, other = (pq.read_table(folder/name) for name in ('whole.parquet', 'killed.parquet'))
        equal, names = one.equals(other), other['file'].to_pylist()
        print(json.dumps(dict(few=few, whole=whole, images_per_second=round(args.images/whole['seconds'], 1),
                              parts_when_killed=parts, resumed=resumed, rows=len(names), distinct=len(set(names)), equal=equal,
                              engine=args.engine, threads=args.threads), indent=2))
    return 0 if equal and len(set(names)) == args.images else 1


if __name__ == '__main__': sys.exit(main())
