"""The whole lesson on a stand-in for a GPU: no operation mixes devices, and what is asked of a GPU is what a GPU is good at."""
import numpy as np
import pytest
import torch
from fastai.torch_core import get_model
from PIL import Image
from standin import H100, T4, StandIn

from pet_classifier.data.loaders import loaders
from pet_classifier.deploy.predictor import Predictor
from pet_classifier.evaluation.interpretation import interpret
from pet_classifier.model.bundle_writer import save_bundle
from pet_classifier.model.gradcam import grad_cam, overlay
from pet_classifier.training.checkpoint import Checkpoint
from pet_classifier.training.fine_tuning import fine_tune
from pet_classifier.training.head import fit_head
from pet_classifier.training.learner import pet_learner
from pet_classifier.training.lr_finder import find_lr
from pet_classifier.training.optimizer import FusedAdam

pytestmark = pytest.mark.slow


@pytest.fixture
def lesson(tiny_table, tiny_weights, tmp_path):
    "A function that makes a learner on the stand-in"
    def lesson(**kwargs):
        learn = pet_learner(loaders(tiny_table, size=32, bs=4), 'test_resnet', str(tiny_weights), **kwargs)
        learn.path = tmp_path
        return learn
    return lesson


def devices(learn): return {x.device.type for x in learn.model.state_dict().values()}


def test_the_whole_lesson(lesson, tiny_table, tmp_path, fresh_cache):
    with StandIn(H100) as gpu:
        learn = lesson()
        assert devices(learn) == {'standin'} and learn.dls.train.decoded.on_device.device.type == 'standin'
        fit_head(learn)
        find_lr(learn, plot=False)
        learn.unfreeze()
        find_lr(learn, steps=30, plot=False)
        gpu.shapes.clear()
        fine_tune(learn, 2, 1e-3)
        assert isinstance(learn.opt, FusedAdam) and set(gpu.dtypes) == {torch.bfloat16}
        assert {shape[0] for shape, _ in gpu.shapes} <= {4, 2}  # 12 images to train on, 6 to validate on, 4 per batch
        interp = interpret(learn)
        x, _ = learn.dls.valid.one_batch()
        heat = grad_cam(learn.model.eval(), x[:3], [0, 1, 2])
        assert heat.device.type == 'standin'
        assert overlay(Image.new('RGB', (32, 32)), heat[0]).size == (32, 32)
        folder = save_bundle(learn, tmp_path/'model')
        rows = Predictor(folder).predict_files(tiny_table.file)
    assert gpu.seen['pinned'] < 1e6
    assert np.isfinite(rows.probability).all()
    assert list(rows.label[tiny_table.is_valid]) == [interp.vocab[i] for i in interp.preds]
    on_cpu = Predictor(folder, precision='fp32', device='cpu').predict_files(tiny_table.file)
    assert np.allclose(on_cpu.probability, rows.probability, atol=0.05)


def test_with_cached_features_the_body_lies_on_the_gpu_too(lesson, fresh_cache):
    with StandIn():
        fit_head(lesson())
        fit_head(learn := lesson())
        assert devices(learn) == {'standin'}
        x, _ = learn.dls.valid.one_batch()
        assert learn.model.eval()(x).device == grad_cam(learn.model, x, [0]*len(x)).device == x.device


def test_an_interrupted_fit_resumes(lesson, tmp_path, raises):
    with StandIn():
        learn = lesson()
        learn.add_cb(raises(KeyboardInterrupt, at=5))
        with pytest.raises(KeyboardInterrupt): fine_tune(learn, 2, 1e-3, checkpoint=Checkpoint(tmp_path/'c.safetensors'))
        again = lesson()
        fine_tune(again, 2, 1e-3, checkpoint=Checkpoint(tmp_path/'c.safetensors', resume=True))
        assert devices(again) == {'standin'} and len(again.epoch_table.rows) == 2


@pytest.mark.parametrize('gpu, precision, expected', [
    (H100, 'auto', torch.bfloat16), (T4, 'auto', torch.float16), (H100, 'fp16', torch.float16), (T4, 'fp32', torch.float32)])
def test_every_convolution_computes_in_what_the_gpu_has(lesson, fresh_cache, gpu, precision, expected):
    with StandIn(gpu) as seen:
        learn = lesson(precision=precision)
        fit_head(learn)
        assert set(seen.dtypes) == {expected}
        fine_tune(learn, 1, 1e-3)
    assert set(seen.dtypes) == {expected} and {p.dtype for p in learn.model.parameters()} == {torch.float32}
    assert ('scale_gradients' in [cb.name for cb in learn.cbs]) == (expected == torch.float16)


@pytest.mark.parametrize('scale, stepped', [(2.**16, True), (float('inf'), False)])
def test_gradients_in_float16_are_scaled_and_a_step_that_overflows_is_skipped(lesson, monkeypatch, scale, stepped):
    with StandIn(T4):
        learn = lesson()
        monkeypatch.setattr(torch.amp.GradScaler, '__init__', patched_scaler(scale))
        before = [p.detach().cpu() for p in learn.model[1].parameters()]
        learn.fit(1, 1e-2)
        changed = any(not torch.equal(p.detach().cpu(), b) for p, b in zip(learn.model[1].parameters(), before))
    assert changed == stepped and get_model(learn.model).trains_in == 'fp16'


def patched_scaler(scale, real=torch.amp.GradScaler.__init__):
    return lambda self, device, enabled: real(self, device, init_scale=scale, enabled=enabled)


def test_the_device_sees_what_mixes_devices():
    with StandIn(), pytest.raises(RuntimeError, match='tensors on standin:0 and on the CPU'):
        torch.ones(2, device='standin') + torch.ones(2)
