"""The peers of peers.py: each trains on a folder with train/ and val/, one epoch frozen and one unfrozen, on random weights.

    trainers.py NAME ARCH FOLDER STEPS

Prints as one line of JSON: images per second of both epochs' training part (`STEPS` batches of each, if not 0), the forward pass
of one image in GFLOP, and when training began and when there was an error rate (seconds since 1970)."""
import json
import sys
import time
from pathlib import Path

BS, SIZE, SEED, UNCOUNTED = 32, 224, 2, 4


class Clock:
    "Images per second of an epoch's training part, or of those after `UNCOUNTED` batches; `batch` returns if `steps` are done."
    def __init__(self, n_images, steps): self.n, self.steps, self.marks = n_images, steps, []

    def start(self): self.began = time.time()

    def batch(self):
        self.marks.append(time.time())
        return len(self.marks) == self.steps

    def rate(self):
        if self.steps: return (self.steps - UNCOUNTED)*BS/(self.marks[-1] - self.marks[UNCOUNTED - 1])
        return min(len(self.marks)*BS, self.n)/(self.marks[-1] - self.began)


def fastai_epoch(learn, steps, fit):
    "Return the clock of an epoch that `fit()` trains with a fastai learner."
    from fastai.callback.core import Callback, CancelFitException
    clock = Clock(len(learn.dls.train_ds), steps)

    class Timer(Callback):
        order = -100
        def before_train(self): clock.start()
        def after_batch(self):
            if self.training and clock.batch(): raise CancelFitException
    with learn.added_cbs(Timer()): fit()
    return clock


def gflop(model):
    "Return the operations of one image's forward pass, in billions."
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    with FlopCounterMode(display=False) as counter, torch.inference_mode(): model.float().eval()(torch.zeros(1, 3, SIZE, SIZE))
    return counter.get_total_flops()/1e9


def ours(arch, data, steps):
    "pet_classifier; its frozen stage is always run in full, and validation images pass the body in it, too."
    from pet_classifier.data.loaders import loaders
    from pet_classifier.data.sources import labelled_images
    from pet_classifier.training.fine_tuning import fine_tune
    from pet_classifier.training.head import fit_head
    from pet_classifier.training.learner import pet_learner
    table = labelled_images(data).table
    learn = pet_learner(loaders(table, SIZE, BS, seed=SEED), arch, weights='none', seed=SEED)
    began = time.time()
    fit_head(learn, 1, seed=SEED)
    first = time.time()
    clock = fastai_epoch(learn, steps, lambda: fine_tune(learn, 1, seed=SEED))
    return dict(began=began, first=first, frozen=len(table)/(first - began), unfrozen=clock.rate(), gflop=gflop(learn.model))


def fastai(arch, data, steps):
    "Plain fastai, as its tutorial teaches it."
    import torch
    from fastai.vision.all import ImageDataLoaders, Resize, aug_transforms, error_rate, resnet34, vision_learner
    torch.manual_seed(SEED)
    dls = ImageDataLoaders.from_folder(data, train='train', valid='val', item_tfms=Resize(460), bs=BS, num_workers=2,
                                       batch_tfms=aug_transforms(size=SIZE, min_scale=.75))
    learn = vision_learner(dls, resnet34 if arch == 'resnet34' else f'tf_{arch}', pretrained=False, metrics=error_rate)
    learn.freeze()
    with learn.no_bar():
        frozen = fastai_epoch(learn, steps, lambda: learn.fit_one_cycle(1))
        first = time.time()
        learn.unfreeze()
        unfrozen = fastai_epoch(learn, steps, lambda: learn.fit_one_cycle(1, slice(1e-6, 1e-4)))
    return dict(began=frozen.began, first=first, frozen=frozen.rate(), unfrozen=unfrozen.rate(), gflop=gflop(learn.model))


def timm(arch, data, steps, bf16=False):
    "What timm's train.py does by default, which is in neither its wheel nor its sdist."
    import torch
    from timm.data import create_dataset, create_loader, resolve_data_config
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.models import create_model
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2
    torch.manual_seed(SEED)
    sets = [create_dataset('', data, split, is_training=split == 'train', batch_size=BS) for split in ('train', 'val')]
    model = create_model(arch if arch == 'resnet34' else f'tf_{arch}', num_classes=len(sets[0].reader.class_to_idx))
    if bf16: model = model.to(memory_format=torch.channels_last)
    config = resolve_data_config({}, model=model)
    how = {k: config[k] for k in ('mean', 'std', 'interpolation')} | dict(
        input_size=(3, SIZE, SIZE), batch_size=BS, num_workers=2, device=torch.device('cpu'))
    train, valid = (create_loader(part, is_training=part is sets[0], **how) for part in sets)
    loss_func = LabelSmoothingCrossEntropy(.1)

    def forward(x):
        if bf16: x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast('cpu', torch.bfloat16, enabled=bf16): return model(x).float()

    def epoch():
        trainable = [p for p in model.parameters() if p.requires_grad]
        optimizer, clock = create_optimizer_v2(trainable, 'sgd', lr=.05, weight_decay=2e-5), Clock(len(sets[0]), steps)
        scheduler, _ = create_scheduler_v2(optimizer, num_epochs=1, updates_per_epoch=len(train))
        model.train()
        clock.start()
        for i, (x, y) in enumerate(train, 1):
            loss_func(forward(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step_update(i)
            if clock.batch(): return clock
        model.eval()
        with torch.inference_mode(): wrong = sum((forward(x).argmax(1) != y).sum().item() for x, y in valid)
        print(f'error rate: {wrong/len(sets[1]):.1%}')
        return clock
    model.requires_grad_(False)
    model.get_classifier().requires_grad_(True)
    frozen, first = epoch(), time.time()
    model.requires_grad_(True)
    return dict(began=frozen.began, first=first, frozen=frozen.rate(), unfrozen=epoch().rate(), gflop=gflop(model))


def timm_bf16(arch, data, steps):
    "The same with train.py's --amp --amp-dtype bfloat16 --channels-last."
    return timm(arch, data, steps, bf16=True)


RESNET34 = 'nc: 37\nbackbone:\n  - [-1, 1, TorchVision, [512, resnet34, null, true, 2]]\nhead:\n  - [-1, 1, Classify, [nc]]\n'

def ultralytics(arch, data, steps):
    "What `yolo classify train` does, without plots (it would fetch a font). resnet34: torchvision's, in a model file."
    from ultralytics import YOLO
    if arch == 'resnet34': Path(arch := str(Path(data)/'resnet34-cls.yaml')).write_text(RESNET34, encoding='utf-8')
    class Enough(Exception): pass  # noqa: N818  the end of a measurement

    def epoch(freeze):
        seen, model = {}, YOLO(arch)

        def start(trainer):
            seen['clock'] = Clock(len(trainer.train_loader.dataset), steps)
            seen['clock'].start()

        def batch(trainer):
            if seen['clock'].batch(): raise Enough
        def validated(trainer): seen.setdefault('first', time.time())
        model.add_callback('on_train_epoch_start', start)
        model.add_callback('on_train_batch_end', batch)
        model.add_callback('on_fit_epoch_end', validated)
        try: model.train(data=data, epochs=1, imgsz=SIZE, batch=BS, workers=2, device='cpu', seed=SEED, pretrained=False,
                         plots=False, freeze=freeze, project=f'{data}/runs')
        except Enough: pass
        return seen['clock'], seen.get('first')
    model = YOLO(arch).model
    (frozen, first), (unfrozen, _) = epoch(len(model.model) - 1), epoch(None)
    return dict(began=frozen.began, first=first, frozen=frozen.rate(), unfrozen=unfrozen.rate(), gflop=gflop(model))


if __name__ == '__main__':
    name, arch, data, steps = sys.argv[1:]
    peer = {f.__name__: f for f in (ours, fastai, timm, timm_bf16, ultralytics)}[name]
    print(json.dumps(peer(arch, data, int(steps))))
