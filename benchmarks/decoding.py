"""Images a second, on one core, from a file to a square of 224 pixels: photos of 12 megapixels, and the pets' small JPEGs.

    PETS_DIR=... python benchmarks/decoding.py [--before PATH]

--before names a checkout of another version, which is measured in turn with this one. The large photos are made of the pets':
nine, side by side, each enlarged. Runs are interleaved; each figure is the median of five.
"""
import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

os.environ.setdefault('OMP_NUM_THREADS', '1')


def read_ours():
    from pet_classifier.data.crops import load_crop
    return lambda file: load_crop(file, 224)


def read_pillow():
    import torch
    from numpy import array
    from PIL import Image

    from pet_classifier.data.crops import center_crop
    return lambda file: center_crop(torch.from_numpy(array(Image.open(file).convert('RGB'))).permute(2, 0, 1), 224)


def serve(way):
    "Read folders from the input, and write the seconds that reading all their JPEGs took"
    import torch
    torch.set_num_threads(1)
    read = read_pillow() if way == 'pillow' else read_ours()
    for line in sys.stdin:
        files = sorted(Path(line.strip()).glob('*.jpg'))
        read(files[0])
        began = time.perf_counter()
        for f in files: read(f)
        print((time.perf_counter() - began)/len(files), flush=True)


def make_large(pets, folder, n=6):
    from PIL import Image
    for i in range(n):
        sheet = Image.new('RGB', (4032, 3024))
        for j, f in enumerate(pets[9*i:9*i+9]):
            sheet.paste(Image.open(f).convert('RGB').resize((1344, 1008)), (j % 3*1344, j//3*1008))
        sheet.save(folder/f'{i}.jpg', quality=90)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--before')
    parser.add_argument('--serve')
    args = parser.parse_args()
    if args.serve: return serve(args.serve)
    here = str(Path(__file__).resolve().parents[1])
    ways = dict(ours=here, pillow=here) | (dict(before=args.before) if args.before else {})
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    running = {way: subprocess.Popen([sys.executable, '-W', 'ignore', __file__, '--serve', way],  # noqa: S603
                                     env=os.environ | dict(PYTHONPATH=where), **pipes) for way, where in ways.items()}
    with tempfile.TemporaryDirectory() as tmp:
        make_large(sorted(Path(os.environ['PETS_DIR']).glob('*.jpg')), Path(tmp))
        for what, folder in dict(large=tmp, small=os.environ['PETS_DIR']).items():
            took = {way: [] for way in ways}
            for _ in range(5):
                for way, p in running.items():
                    print(folder, file=p.stdin, flush=True)
                    took[way].append(float(p.stdout.readline()))
            for way, seconds in took.items():
                pair = median(s/o for s, o in zip(seconds, took['ours']))
                print(f'{what:6} {way:7} {1e3*median(seconds):7.2f} ms {1/median(seconds):7.1f} images/s   '
                      f'ours is {pair:.2f} times as fast')
    for p in running.values():
        p.stdin.close()
        p.wait()


if __name__ == '__main__': sys.exit(main())
