"Two processes for test_distributed.py, each of which runs a lesson in fastai's `distrib_ctx`, on the CPU"
import json
import multiprocessing
import os
import sys
import types
from pathlib import Path

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel


class Accelerator:
    "As much of accelerate's as `DistributedTrainer` uses: fastai asks for that package, and it is not among our requirements"
    def __init__(self, **kwargs): "Nothing to set up"
    def prepare(self, model):
        model = DistributedDataParallel(model)
        model.device = torch.device('cpu')
        return model
    def backward(self, loss): loss.backward()


sys.modules['accelerate'] = types.SimpleNamespace(Accelerator=Accelerator)

from fastai import distributed as fastai_distributed  # noqa: E402

from pet_classifier.core.progress import history  # noqa: E402
from pet_classifier.data.images import list_images  # noqa: E402
from pet_classifier.data.labels import label_by_name  # noqa: E402
from pet_classifier.data.loaders import loaders  # noqa: E402
from pet_classifier.data.splits import random_split  # noqa: E402
from pet_classifier.training.checkpoint import Checkpoint  # noqa: E402
from pet_classifier.training.fine_tuning import KeepBest, fine_tune, save_stage  # noqa: E402
from pet_classifier.training.head import fit_head  # noqa: E402
from pet_classifier.training.learner import pet_learner  # noqa: E402


def broadcast(self, t, rank):
    "fastai's `_broadcast`, which is written for GPUs"
    t = torch.LongTensor(t)
    distributed.broadcast(t, rank)
    return t.tolist()


def main(rank, images, weights, out):
    os.environ |= dict(RANK=str(rank), LOCAL_RANK=str(rank))
    distributed.init_process_group('gloo')
    fastai_distributed.DistributedDL._broadcast = broadcast
    table = random_split(label_by_name(list_images(images)), valid_pct=0.34)
    learn = pet_learner(loaders(table, size=32, bs=4, device='cpu'), 'test_resnet', weights)
    learn.path = out = Path(out)/str(rank)
    kept, values = [], []
    real = KeepBest.after_fit
    def after_fit(self):
        kept.append(self.best_epoch)
        values.append([list(map(float, v))[1:] for v in learn.recorder.values])
        real(self)
    KeepBest.after_fit = after_fit
    fit_head(learn, 2)
    with learn.distrib_ctx(sync_bn=False):  # SyncBatchNorm is for GPUs
        fine_tune(learn, 4, 3e-3, checkpoint=Checkpoint(out/'last.safetensors', every=0))
    save_stage(learn, 'tuned')
    state = {k: v.double().sum().item() for k, v in learn.model.state_dict().items()}
    out.mkdir(exist_ok=True)
    files = sorted(f.name for f in out.rglob('*.safetensors'))
    (out/'result.json').write_text(json.dumps(dict(kept=kept, values=values, state=state, files=files, rows=len(history(learn)))))
    distributed.destroy_process_group()


if __name__ == '__main__':
    children = [multiprocessing.get_context('fork').Process(target=main, args=(rank, *sys.argv[1:])) for rank in (0, 1)]
    for child in children: child.start()  # after the imports, which take seconds
    while None in (codes := [child.exitcode for child in children]) and not any(codes): children[codes.index(None)].join(0.1)
    for child in children: child.kill()  # the other one, if one failed: it would wait
    sys.exit(any(codes))
