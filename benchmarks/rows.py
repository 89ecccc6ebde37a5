"""The rows of the benchmark: what is run for each, and how its figures are told."""
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from statistics import mean, median, stdev

LITE0 = 'efficientnet_lite0'
LITE0_TRAINED = dict(arch=LITE0, weights='imagenet')
BODIES = {'resnet34': 'none', LITE0: 'imagenet'}  # architecture -> weights


@dataclass
class Row:
    "A line of the table"
    row: int  # of the list
    what: str
    plain: str  # plain fastai's figure
    ours: str
    ratio: float | None  # how many times better ours is
    asked: str
    runs: dict  # all that was measured


def mid(runs, key): return median(r[key] for r in runs)

def percent(share): return f'{100*share:.1f} %'

def brief(seconds):
    "Seconds with three digits that count"
    return f'{1000*seconds:.3g} ms' if seconds < 1 else f'{seconds:.3g} s' if seconds < 100 else f'{seconds:.0f} s'


def frozen(b):
    "1 and 2: the frozen stage, cold and then warm, on the same images and split as the peer's"
    options = b.options(**LITE0_TRAINED)

    def ours():
        with b.cache() as cache: return [b.ours('frozen', options, cache=cache) for _ in range(2)]
    runs = b.interleaved(lambda: b.peer('frozen', options | dict(epochs=b.plan.epochs[0])), ours)
    plain = [p for p, _ in runs]
    for row, asked in (1, 'at least 25 times, error at most half'), (2, 'at least 80 times'):
        side = [o[row-1] for _, o in runs]
        yield Row(row, f'frozen stage {("cold", "warm")[row-1]}: {LITE0}, 224 px, {b.count} images; error',
                  f"{brief(mid(plain, 'seconds'))}, {percent(mid(plain, 'error'))}",
                  f"{brief(mid(side, 'seconds'))}, {percent(mid(side, 'error'))}",
                  mid(plain, 'seconds')/mid(side, 'seconds'), asked, dict(plain=plain, ours=side))


def few_shot(b):
    "3: ten splits, each with an empty cache; ours only"
    runs = b.worker('ours.py', [
        ('frozen', dict(b.options(seed, **LITE0_TRAINED), size=288, seed=seed, cache=tempfile.mkdtemp(dir=b.work)))
        for seed in range(b.plan.splits)])
    errors, seconds = [r['error'] for r in runs], [r['seconds'] for r in runs]
    yield Row(3, f'{len(runs)} splits of 5 and 2 a breed, cold: {LITE0}, 288 px; mean error, standard deviation; time a split',
              '-', f'{percent(mean(errors))}, {percent(stdev(errors))}; {brief(median(seconds))}, at most {brief(max(seconds))}',
              None, 'at most 12 %, under 30 s a split', dict(ours=runs))


def pixels(b):
    "4: the training loader, and decoding"
    options = b.options()
    plain, ours = zip(*b.interleaved(lambda: b.peer('pixels', options), lambda: b.ours('pixels', options)))
    asked = dict(loader='at least 12 times', decode='at least 1.6 times, difference under 2/255')
    told = dict(loader='training loader, its cache warm: images/s',
                decode='decoding to 224 px, one thread (plain: Pillow): images/s')
    for key, what in told.items():
        also = f"; mean difference {mid(ours, 'apart'):.2f}/255" if key == 'decode' else ''
        yield Row(4, what, f'{mid(plain, key):.0f}', f'{mid(ours, key):.0f}{also}', mid(ours, key)/mid(plain, key), asked[key],
                  dict(plain=plain, ours=ours))


def steps(b):
    "5: training steps with everything trainable, on one batch; and the losses over 50"
    shapes = [('resnet34', 224, 32, 'at least 2 times'), ('resnet50', 299, 16, 'at least 3 times')]
    jobs = [('steps', b.options(arch=arch, size=size, bs=bs, n=b.plan.steps)) for arch, size, bs, _ in shapes]
    runs = b.interleaved(lambda: b.worker('plain_fastai.py', jobs), lambda: b.worker('ours.py', jobs))
    for i, (arch, size, bs, asked) in enumerate(shapes):
        plain, ours = ([median(run[side][i]['seconds'][1:]) for run in runs] for side in (0, 1))
        yield Row(5, f'full training step: {arch}, {size} px, {bs} images, random weights', brief(median(plain)),
                  brief(median(ours)), median(plain)/median(ours), asked, dict(plain=plain, ours=ours))
    yield from curves(b)


def smoothed(losses, keep=.98):
    "The running mean of `losses`, as fastai's recorder keeps it"
    value, res = 0, []
    for i, loss in enumerate(losses, 1):
        value = keep*value + (1-keep)*loss
        res.append(value/(1-keep**i))
    return res


def apart(plain, ours):
    "How far smoothed losses are apart, as shares of the first: at most, and in the mean"
    shares = [abs(o-p)/p for p, o in zip(smoothed(plain), smoothed(ours), strict=True)]
    return max(shares), mean(shares)


def curves(b):
    "5: how far the losses are apart, from the same weights and over the same batches; and how far they are if ours is in fp32"
    size, bs, n = b.plan.curve
    rates = {"the lesson's rates": (1e-6, 1e-4), 'rate 0.001 for all': (1e-3, 1e-3)}
    jobs = [('curve', b.options(arch='resnet34', size=size, bs=bs, n=n, lr=lr)) for lr in rates.values()]
    exact = [(task, options | dict(precision='fp32')) for task, options in jobs]
    plain, ours = b.worker('plain_fastai.py', jobs), b.worker('ours.py', jobs + exact)
    for i, what in enumerate(rates):
        theirs, auto, fp32 = (run['losses'] for run in (plain[i], ours[i], ours[i+len(jobs)]))
        (most, usual), (most32, usual32) = apart(theirs, auto), apart(theirs, fp32)
        yield Row(5, f'smoothed loss over {n} steps: resnet34, {size} px, {bs} images, same weights and batches, {what} '
                  '(n = 1)', f'{theirs[0]:.3f} to {smoothed(theirs)[-1]:.3f}', f'{auto[0]:.3f} to {smoothed(auto)[-1]:.3f}; '
                  f'apart by {100*most:.2f} % at most, {100*usual:.2f} % in the mean (ours in fp32: {100*most32:.2f} %, '
                  f'{100*usual32:.2f} %)', None, 'within 1 %', dict(plain=theirs, ours=auto, ours_fp32=fp32))


def prediction(b):
    "6: a folder, and single images in one thread, by bundles whose heads were trained, with each engine that is installed"
    engines = ('auto', 'openvino') if find_spec('openvino') else ('auto',)
    made = [('bundle', b.options(arch=a, weights=w, to=b.work/a)) for a, w in BODIES.items()]
    asked = [('agreement', dict(images=b.images, bundle=b.work/a, engines=engines)) for a in BODIES]
    agreed = [share[engine] for share in b.worker('ours.py', made + asked)[len(made):] for engine in engines]
    yield from folders(b, answering(b, 'folder', engines), agreed)
    yield from singles(answering(b, 'single', engines, threads=1))


def answering(b, task, engines, **keywords):
    "For each body and engine what it is, the plain runs of `task`, and ours"
    peers = [(task, b.options(arch=a, weights=w)) for a, w in BODIES.items()]
    cases = [(a, engine) for a in BODIES for engine in engines]
    ours = [(task, dict(images=b.images, bundle=b.work/a, engine=engine)) for a, engine in cases]
    pairs = b.interleaved(lambda: b.worker('plain_fastai.py', peers, **keywords), lambda: b.worker('ours.py', ours, **keywords))
    for i, (arch, engine) in enumerate(cases):
        what = f"{arch}{', random weights' if BODIES[arch] == 'none' else ''}, 224 px, engine {engine}"
        yield what, [p[i//len(engines)] for p, _ in pairs], [o[i] for _, o in pairs]


def folders(b, runs, agreed):
    "6: images per second of a folder, beside `get_preds` and beside the bare loop"
    for (what, plain, ours), a in zip(runs, agreed):
        rate, bare = mid(ours, 'rate'), mid(plain, 'bare')
        yield Row(6, f'prediction of {b.count} images, files/s: {what} (plain: get_preds; bare: eager fp32, decoded before)',
                  f"{mid(plain, 'rate'):.1f}; bare {bare:.1f}",
                  f"{rate:.1f}, {rate/bare:.1f} times the bare loop; ready after {brief(mid(ours, 'ready'))}; top-1 as fp32 "
                  f"{percent(a['same_pixels'])}, on Pillow's pixels {percent(a['pil_pixels'])}", rate/mid(plain, 'rate'),
                  f"at least {3 if what.startswith('resnet') else 6} times eager fp32, top-1 at least 99.5 %",
                  dict(plain=plain, ours=ours, agreement=a))


def singles(runs):
    "6: one image, one thread"
    for what, plain, ours in runs:
        yield Row(6, f'one image, one thread: {what} (plain: learn.predict)', brief(mid(plain, 'seconds')),
                  brief(mid(ours, 'seconds')), mid(plain, 'seconds')/mid(ours, 'seconds'), 'at least 4 times',
                  dict(plain=plain, ours=ours))


def lesson(b):
    "7: both stages of resnet34; the peer takes minutes and runs once, between ours"
    images, valid = b.tiled(b.plan.small, b.plan.small//5)
    options = dict(images=images, valid=valid, arch='resnet34', epochs=b.plan.epochs)
    ours = [b.ours('lesson', options)]
    plain = b.peer('lesson', options)
    ours += [b.ours('lesson', options) for _ in range(b.repeats-1)]
    yield Row(7, f'lesson: resnet34, 224 px, {b.plan.small} images, random weights, {b.plan.epochs[0]} epochs frozen and '
              f'{b.plan.epochs[1]} not (plain: n = 1)', brief(plain['seconds']), brief(mid(ours, 'seconds')),
              plain['seconds']/mid(ours, 'seconds'), 'at least 5 times', dict(plain=[plain], ours=ours))


def memory(b):
    "8: peak of the process at two numbers of images; ours only"
    runs = []
    for n in (b.plan.small, b.plan.large):
        images, valid = b.tiled(n, n//5)
        runs.append(b.ours('memory', dict(images=images, valid=valid, epochs=1, **LITE0_TRAINED)))
    grown = {k: None if runs[0][k] is None else runs[1][k]-runs[0][k] for k in runs[0]}
    anonymous = '' if grown['anonymous'] is None else f", without mapped files {grown['anonymous']:.0f}"
    yield Row(8, f"peak memory at {b.plan.small} and {b.plan.large} images: {LITE0}, frozen stage and prediction (n = 1)", '-',
              f"{runs[0]['peak']:.0f} and {runs[1]['peak']:.0f} MB; grown by {grown['peak']:.0f}{anonymous}; the features by "
              f"{grown['features']:.0f}", None, 'grows by the features at most', dict(ours=runs, grown=grown))


ROWS = {1: frozen, 2: frozen, 3: few_shot, 4: pixels, 5: steps, 6: prediction, 7: lesson, 8: memory}
