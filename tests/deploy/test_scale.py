"By many processes, no row is lost or there twice, each is what one would have said; a head trained on them is the same."
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from fastai.callback.core import Callback

from pet_classifier.data.images import ImageProblem
from pet_classifier.data.loaders import loaders
from pet_classifier.deploy import scale
from pet_classifier.deploy.parts import PartWriter, part_file
from pet_classifier.deploy.predictor import Predictor
from pet_classifier.deploy.scale import FeatureRows, PredictionRows, check_address, features_on_ray, predict_on_ray
from pet_classifier.model.bundle_writer import save_bundle
from pet_classifier.training.fine_tuning import fine_tune
from pet_classifier.training.head import fit_head
from pet_classifier.training.learner_features import feature_extractor
from pet_classifier.training.precomputed import use_features

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def cluster():
    "Ray on this machine"
    ray = pytest.importorskip('ray', reason='Ray is not installed (the extra "scale")')
    ray.init(address='local', num_cpus=2, include_dashboard=False, object_store_memory=200_000_000, log_to_driver=False)
    yield 'auto'
    ray.shutdown()


@pytest.fixture
def learn(learner):
    learn = learner(precision='fp32')
    with learn.no_logging(): fit_head(learn, epochs=3)
    return learn


@pytest.fixture
def bundle(learn, tmp_path): return save_bundle(learn, tmp_path/'model')


@pytest.fixture
def files(tiny_folder, tmp_path):
    "A hundred images, three of them broken, one not there, and one whose name is no text"
    good = sorted(tiny_folder.iterdir())
    made = [tmp_path/'many'/f'{i:03}_{good[i % len(good)].name}' for i in range(100)]
    (tmp_path/'many').mkdir()
    made[50] = Path(os.fsdecode(os.fsencode(made[50]) + b'\xff.jpg')) if sys.platform == 'linux' else made[50]
    for i, f in enumerate(made): os.link(good[i % len(good)], f)
    for i in 3, 47, 98: made[i].unlink()
    made[3].write_text('not an image')
    made[47].touch()
    return made


def equal_to_local(out, files, bundle, top=2):
    far, near = pd.read_parquet(out), Predictor(bundle, 'torch', 'fp32').predict_files(files, top=top)
    assert far.number.tolist() == list(range(len(files)))
    assert far.file.tolist() == [os.fsencode(f).decode(errors='backslashreplace') for f in files]
    for c in 'label', 'label2', 'none_of_these', 'problem': assert far[c].tolist() == near[c].tolist()
    for c in 'probability', 'probability2': assert far[c].to_numpy() == pytest.approx(near[c].to_numpy(), abs=1e-5, nan_ok=True)
    assert (far.problem != '').sum() == 3 and far.label.nunique() == 4  # three classes, and none
    return far


def children(word):
    "The processes under this one that have `word` in their command line"
    def is_one(p):
        try: return word in ' '.join(p.cmdline())
        except psutil.Error: return False
    return [p for p in psutil.Process().children(recursive=True) if is_one(p)]


@pytest.mark.parametrize('where', ['here', 'on Ray'])
def test_with_the_workers_killed_in_the_middle_no_row_is_lost_and_none_twice(request, bundle, files, tmp_path, where):
    address = request.getfixturevalue('cluster') if where == 'on Ray' else None
    killed, parts_then, said = set(), [], []
    def kill(line):
        said.append(line)
        if killed or ' of ' not in line: return
        parts_then.append(len(list((tmp_path/'out').glob('part-*'))))
        killed.update(p.pid for p in children('MapWorker' if address else 'LokyProcess'))
        for pid in killed: os.kill(pid, signal.SIGKILL)
    out = predict_on_ray(bundle, files, tmp_path/'out', top=2, precision='fp32', address=address,
                         workers=1 if address else 2, chunk=25, say=kill)  # each worker of Ray's starts two processes
    assert killed and parts_then[0] < 4
    assert said[0].startswith('connecting to the Ray cluster at auto; this opens ports') == bool(address)
    equal_to_local(out, files, bundle)
    assert sorted(f.name for f in out.iterdir()) == ['_about.json', *(f'part-{i:07}.parquet' for i in range(4))]


def test_features_are_those_of_the_local_path_and_train_the_same_head(learn, learner, bundle, tiny_table, tmp_path):
    order = [f for dl in learn.dls.loaders for f in dl.dataset.items.file]
    rng = np.random.default_rng(0)
    mixed = [order[i] for i in rng.permutation(18)] + [tmp_path/'nowhere.jpg']
    said = []
    out = features_on_ray(bundle, mixed, tmp_path/'rows', precision='fp32', workers=1, chunk=7, say=said.append)
    assert said == ['1 of 3 parts', '2 of 3 parts', '3 of 3 parts']
    far = pd.read_parquet(out)
    assert far.file.tolist() == list(map(str, mixed)) and far.problem.tolist() == [''] * 18 + ['not found']
    assert np.isnan(far.features[18]).all()
    near = feature_extractor(learn).compute(mixed[:18]).numpy()
    assert np.stack(far.features[:18]) == pytest.approx(near, abs=1e-4) and near.std() > 0.01
    head = learn.model[1][-1].weight
    for file in None, tmp_path/'rows.npy':
        other = learner(loaders(tiny_table, size=32, bs=4), precision='fp32')
        with other.no_logging(): fit_head(use_features(other, out, file), epochs=3)
        assert torch.allclose(other.model[1][-1].weight, head, atol=1e-5) and head.abs().max() > 0.01
    nobody = tiny_table.assign(file=[*tiny_table.file[:-1], tmp_path/'nowhere.jpg'])
    with pytest.raises(ValueError, match=r'1 of 18 images have no features: .*nowhere.jpg \(not found\)'):
        use_features(learner(loaders(nobody, size=32), precision='fp32'), out)


def test_what_a_worker_cannot_do_is_said(bundle, files, tmp_path, monkeypatch):
    def gone(*args, really=scale._here):
        shutil.move(bundle, tmp_path/'away')
        yield from really(*args)
    monkeypatch.setattr(scale, '_here', gone)
    with pytest.raises(OSError, match=r'part \d failed: .*/model. is not a bundle'):
        predict_on_ray(bundle, files[:4], tmp_path/'out', workers=1, chunk=2)
    assert [f.name for f in (tmp_path/'out').glob('part-*')] == []


def test_only_what_is_missing_is_done_by_the_next_call(bundle, files, tmp_path, monkeypatch):
    given = []
    def by_hand(args, todo, workers):
        given.append([t['part'] for t in todo])
        writer = PartWriter(*args)
        for t in todo: yield writer.write(**t) or 1
    monkeypatch.setattr(scale, '_here', by_hand)
    for lost in [], [3, 41], []:
        for part in lost: part_file(tmp_path/'out', part).unlink()
        (tmp_path/'out').mkdir(exist_ok=True)
        equal_to_local(predict_on_ray(bundle, files, tmp_path/'out', top=2, precision='fp32', chunk=2), files, bundle)
    assert given == [list(range(50)), [3, 41], []]


def test_rows_of_predictions_and_features_without_ray(bundle, learn, files):
    rows = PredictionRows(bundle, top=3)(files[:5]).to_pandas()
    assert list(rows) == ['label', 'probability', 'label2', 'probability2', 'label3', 'probability3', 'none_of_these', 'problem']
    some = [*files[:5], files[3], *files[44:50]]
    rows = FeatureRows(bundle)(some, bs=4)
    broken = [p != '' for p in rows['problem'].to_pylist()]
    assert broken == [i in (3, 5, 9) for i in range(12)] and [np.isnan(x).all() for x in rows['features'].to_pylist()] == broken
    good = [f for f, b in zip(some, broken) if not b]
    far = np.array(rows['features'].to_pylist())[~np.array(broken)]
    assert far == pytest.approx(feature_extractor(learn).compute(good).numpy(), abs=1e-4)
    with pytest.raises(ImageProblem): feature_extractor(learn).compute(some)
    assert FeatureRows(bundle)([]).num_rows == 0


def never(*args): raise AssertionError('somebody was asked')


def test_what_cannot_be_is_said_before_anything_is_started(bundle, learn, files, tmp_path, monkeypatch):
    monkeypatch.setattr(scale, '_here', never)
    out = tmp_path/'out'
    for kwargs, said in ((dict(chunk=0), 'chunk=0: expected at least 1'), (dict(top=4), 'top=4: expected 1 to 3'),
                         (dict(engine='abacus'), "engine='abacus'"), (dict(workers=0), 'workers=0: expected at least 1'),
                         (dict(address='local'), 'this machine needs no Ray; omit the address'),
                         (dict(precision='fp8'), "precision='fp8'")):
        with pytest.raises(ValueError, match=said): predict_on_ray(bundle, files, out, **kwargs)
    with pytest.raises(ValueError, match='0 images'): predict_on_ray(bundle, [], out)
    for address in '127.0.0.1:9', 'ray://127.0.0.1:9':
        with pytest.raises(ConnectionError, match=f'no Ray cluster answers at {address} '): check_address(address)
    with pytest.raises(FileNotFoundError, match='not a bundle'): features_on_ray(tmp_path, files, out)
    assert not out.exists()
    with pytest.raises(ValueError, match='is not empty'): predict_on_ray(bundle, files, tmp_path/'many')
    monkeypatch.setattr(scale, '_here', lambda *args: [])  # which does nothing
    with pytest.raises(OSError, match='100 of 100 parts are written but not in .* all machines share'):
        predict_on_ray(bundle, files, out, chunk=1, precision='fp32')
    for kwargs, what in (dict(top=2), 'top'), (dict(chunk=2), 'chunk'), (dict(precision='bf16'), 'precision'):
        with pytest.raises(ValueError, match=f'holds other rows: {what} differ;'):
            predict_on_ray(bundle, files, out, **dict(chunk=1, precision='fp32') | kwargs)
    with pytest.raises(ValueError, match='list differ;'): predict_on_ray(bundle, files[::-1], out, chunk=1, precision='fp32')
    scaled = save_bundle(learn, tmp_path/'scaled', temperature=2.)  # the same weights
    with pytest.raises(ValueError, match='bundle differ;'): predict_on_ray(scaled, files, out, chunk=1, precision='fp32')


def test_the_same_names_in_another_folder_are_other_images(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(scale, '_here', lambda *args: [])
    for name in 'a', 'b':
        (tmp_path/name).mkdir()
        monkeypatch.chdir(tmp_path/name)
        with pytest.raises(OSError if name == 'a' else ValueError, match='are written' if name == 'a' else 'list differ;'):
            predict_on_ray(bundle, ['cat.jpg'], tmp_path/'out', precision='fp32')


def test_what_ray_says_is_one_line(bundle, files, tmp_path, monkeypatch):
    ray = pytest.importorskip('ray')
    def mismatch(**kwargs): raise RuntimeError('Version mismatch: the cluster has another Python\nand more lines')
    monkeypatch.setattr(ray, 'is_initialized', lambda: False)
    monkeypatch.setattr(ray, 'init', mismatch)
    with pytest.raises(OSError, match='^cannot connect to the Ray cluster: Version mismatch: the cluster has another Python$'):
        predict_on_ray(bundle, files[:2], tmp_path/'out', precision='fp32', address='auto')


def test_rows_of_no_run_are_refused(learn, bundle, files, tmp_path, monkeypatch):
    monkeypatch.setattr(scale, '_here', lambda *args: [])
    out = tmp_path/'out'
    with pytest.raises(OSError, match='are written'): predict_on_ray(bundle, files, out, chunk=1, precision='fp32')
    with pytest.raises(FileNotFoundError, match='contains no features'): use_features(learn, tmp_path/'nowhere')
    with pytest.raises(ValueError, match='they differ in rows, body'): use_features(learn, out)


def test_without_ray_the_way_out_is_said(bundle, files, tmp_path, monkeypatch):
    monkeypatch.setattr(scale, 'find_spec', lambda name: None)
    for call in predict_on_ray, features_on_ray:
        with pytest.raises(ValueError, match=r"ray not installed; pip install 'pet-classifier\[scale\]'"):
            call(bundle, files, tmp_path/'out', address='auto')
    assert not (tmp_path/'out').exists()


def test_loaders_for_images_that_lie_elsewhere_know_all_but_the_images(learn, learner, tiny_table):
    first = tiny_table.file[~tiny_table.is_valid].iloc[0]  # which fastai opens to see what it is
    elsewhere = tiny_table.assign(file=[f if f == first else f'/nowhere/{f.name}' for f in tiny_table.file])
    dls = loaders(elsewhere, size=32, bs=4)
    for ours, theirs in zip(dls.loaders, learn.dls.loaders, strict=True):
        assert torch.equal(ours.targets, theirs.targets)
        assert [Path(f).name for f in ours.dataset.items.file] == [f.name for f in theirs.dataset.items.file]
        assert ours.dataset.items.label.tolist() == theirs.dataset.items.label.tolist() and ours.side == theirs.side
    with pytest.raises(ImageProblem, match='_.*jpg: (not found|cannot be reached)'): dls.valid.one_batch()
    with pytest.raises(ImageProblem, match='_.*jpg'): fit_head(learner(dls))  # which was given no features


class Wraps(Callback):
    "Wraps the network as fastai does for several devices, and unwraps it"
    order = 11
    def before_fit(self): self.learn.model = torch.nn.DataParallel(self.learn.model)
    def after_fit(self): self.learn.model = self.learn.model.module


def test_a_network_that_is_wrapped_for_several_devices_learns_the_same(learner):
    weights = []
    for cbs in [], [Wraps()]:
        learn = learner(precision='fp32', cbs=cbs)
        with learn.no_logging():
            fit_head(learn, epochs=2)
            fine_tune(learn, epochs=2, lr=1e-2)
            assert not fine_tune(learn, epochs=2, lr=1e3)  # which ruins it: what it began with is put back
        weights.append({k: w.clone() for k, w in learn.model.state_dict().items()})
    assert weights[0].keys() == weights[1].keys() and all(torch.equal(w, weights[1][k]) for k, w in weights[0].items())
