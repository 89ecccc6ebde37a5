"What the frozen body makes of an image is computed once, kept on disk, and computed anew when anything it depends on changes."
import os
from collections import Counter

import numpy as np
import pytest
import torch
from fastai.vision.augment import aug_transforms
from PIL import Image
from torch import nn

from pet_classifier.core.cache import clear_cache
from pet_classifier.data.augment import Augment
from pet_classifier.data.crops import load_crop, load_crops
from pet_classifier.data.image_ids import image_ids
from pet_classifier.data.images import ImageProblem, list_images
from pet_classifier.data.loaders import loaders
from pet_classifier.data.splits import random_split
from pet_classifier.model.backbone import build_model
from pet_classifier.model.features import (
    FeatureExtractor,
    Preprocess,
    evaluating,
    fingerprint,
    read_features,
    split_head,
    write_features,
)
from pet_classifier.model.network import set_precision
from pet_classifier.training.learner import pet_learner
from pet_classifier.training.learner_features import feature_extractor, image_features, training_features


@pytest.fixture
def computed(monkeypatch, fresh_cache):
    "The names of the images whose features were computed, view by view: `(name, view)`"
    seen, really = [], FeatureExtractor.compute
    def counted(self, files, bs=None):
        files = list(files)
        seen.extend((f.name, self.seed) for f in files)
        return really(self, files, bs)
    monkeypatch.setattr(FeatureExtractor, 'compute', counted)
    return seen


@pytest.fixture
def files(tiny_table): return tiny_table.file.tolist()


@pytest.fixture
def own_files(tmp_path, draw):
    "Eight images that a test may change"
    made = [tmp_path/'own'/f'red_{i}.png' for i in range(8)]
    for i, f in enumerate(made): draw(f, 'red', i)
    return made


def of(data): return data.tensors[0]


def test_another_learner_on_the_same_images_computes_nothing(learner, computed, tiny_table):
    first = training_features(learner())
    assert len(computed) == 18 == len(set(computed))
    computed.clear()
    again = random_split(tiny_table.drop(columns='is_valid'), valid_pct=0.5, seed=9)
    assert (again.is_valid != tiny_table.is_valid).any()
    learn = learner(loaders(again, size=32, bs=5, seed=7), seed=3)
    nn.init.normal_(learn.model[1][-1].weight)  # a head that has learned something
    second = training_features(learn)
    assert computed == []
    row = {f: x for data, dl in zip(first, learner().dls.loaders) for f, x in zip(dl.dataset.items.file, of(data))}
    for data, dl in zip(second, learn.dls.loaders):
        assert torch.equal(of(data), torch.stack([row[f] for f in dl.dataset.items.file]))
        assert [learn.dls.vocab[i] for i in data.tensors[1]] == dl.dataset.items.label.tolist()


def test_a_grown_set_computes_only_what_is_new(learner, computed, files):
    learn = learner()
    few = image_features(learn, files[:10])
    computed.clear()
    all_of_them = image_features(learn, files[::-1])
    assert sorted(computed) == sorted((f.name, 0) for f in files[10:])
    assert torch.equal(all_of_them.flip(0)[:10], few)
    assert torch.allclose(all_of_them.flip(0), feature_extractor(learn).compute(files), atol=2e-2)
    computed.clear()
    assert torch.equal(image_features(learn, files[3:7]), few[3:7]) and computed == []


def test_an_image_that_is_asked_for_twice_is_computed_once(learner, computed, files):
    rows = image_features(learner(), [files[0], files[1], files[0]])
    assert Counter(computed) == {(files[0].name, 0): 1, (files[1].name, 0): 1}
    assert torch.equal(rows[0], rows[2]) and not torch.equal(rows[0], rows[1])


@pytest.mark.parametrize('edit', ['content', 'size', 'time'])
def test_a_changed_image_is_computed_anew(learner, computed, own_files, draw, edit):
    learn, changed = learner(precision='fp32'), own_files[3]
    before = image_features(learn, own_files)
    computed.clear()
    stat = changed.stat()
    if edit == 'time': os.utime(changed, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    else:
        draw(changed, 'blue', 77)
        if edit == 'size': os.utime(changed, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        else: os.utime(changed, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))
    after = image_features(learn, own_files)
    assert computed == [(changed.name, 0)]
    same = (after - before).abs().max(1).values < 1e-4
    assert same.tolist() == [i != 3 or edit == 'time' for i in range(8)]


def changed_weights(learn): learn.model[0].model.conv1[0].weight.data[0, 0, 0, 0] += 1e-3
def changed_statistics(learn): learn.model[0].model.bn1.running_mean += 1e-3
def changed_precision(learn): set_precision(learn.model, 'bf16')
def changed_normalisation(learn): learn.dls.valid.after_batch.fs[-1].mean += 0.1


@pytest.mark.parametrize('change', [changed_weights, changed_statistics, changed_precision, changed_normalisation])
def test_what_the_features_depend_on_is_noticed(learner, computed, files, change):
    image_features(learner(precision='fp32'), files)
    computed.clear()
    learn = learner(precision='fp32')
    change(learn)
    after = image_features(learn, files)
    assert len(computed) == 18 and torch.allclose(after, feature_extractor(learn).compute(files), atol=1e-5)


@pytest.mark.parametrize('kwargs', [dict(size=48), dict(size=40)])
def test_another_size_is_computed_anew(learner, computed, files, tiny_table, kwargs):
    image_features(learner(), files)
    computed.clear()
    image_features(learner(loaders(tiny_table, bs=4, **kwargs)), files)
    assert len(computed) == 18


def test_what_the_features_do_not_depend_on_is_not_computed_anew(learner, computed, files, tiny_table):
    image_features(learner(), files)
    computed.clear()
    learn = learner(loaders(tiny_table, size=32, bs=3, seed=11, augment=[]), seed=5, metrics=[])
    nn.init.normal_(learn.model[1][-1].weight)
    image_features(learn, files)
    assert computed == []


def test_fastais_head_pools_without_unit_length_and_has_features_of_its_own(learner, fresh_cache, files):
    ours, theirs = (image_features(learner(head=head, precision='fp32'), files) for head in ('linear', 'fastai'))
    assert ours.shape == theirs.shape
    halves = theirs.unflatten(1, (2, -1))
    assert torch.allclose(ours, (10*halves/halves.norm(dim=2, keepdim=True)).flatten(1), atol=1e-4)


@pytest.mark.parametrize('spoilt', [lambda data: b'', lambda data: data[:100], lambda data: data[:-1], lambda data: b'x' + data,
                                    lambda data: data[:300] + b'x' + data[301:], lambda data: bytes(len(data))])
def test_a_broken_file_is_replaced(learner, computed, files, fresh_cache, spoilt):
    learn = learner()
    rows = image_features(learn, files)
    file, = fresh_cache.glob('features-*')
    file.write_bytes(spoilt(file.read_bytes()))
    computed.clear()
    assert torch.equal(image_features(learn, files), rows) and len(computed) == 18
    computed.clear()
    assert torch.equal(image_features(learn, files), rows) and computed == []


def test_a_cleared_cache_is_filled_again(learner, computed, files):
    rows = image_features(learner(), files)
    assert clear_cache() > 0
    computed.clear()
    assert torch.equal(image_features(learner(), files), rows) and len(computed) == 18


def test_without_room_there_is_a_warning_and_the_right_result(learner, computed, files, fresh_cache, monkeypatch):
    monkeypatch.setenv('PET_CLASSIFIER_CACHE_GB', '0')
    learn = learner()
    for _ in range(2):
        computed.clear()
        with pytest.warns(UserWarning, match='18 images are not cached on disk: there is no room .*PET_CLASSIFIER_CACHE_GB'):
            rows = image_features(learn, files)
        assert len(computed) == 18 and torch.equal(rows, feature_extractor(learn).compute(files))
    assert not list(fresh_cache.glob('features-*'))


def test_a_disk_that_refuses_is_a_warning_and_leaves_nothing(learner, computed, files, fresh_cache, monkeypatch):
    def full(*args): raise OSError(28, 'No space left on device')
    monkeypatch.setattr('os.replace', full)
    with pytest.warns(UserWarning, match='not cached on disk: .*No space left'): rows = image_features(learner(), files)
    assert torch.equal(rows, feature_extractor(learner()).compute(files))
    assert not list(fresh_cache.iterdir())


def test_features_are_written_and_read_as_they_were(learner, fresh_cache, files):
    name, ids, rows = feature_extractor(learner()).name, image_ids(files), torch.randn(18, 5)
    assert read_features(name) == ({}, None)
    write_features(name, ids, rows)
    known, read = read_features(name)
    assert [known[i] for i in ids] == list(range(18)) and torch.equal(read, rows)
    assert [f.name for f in fresh_cache.iterdir()] == [name]


def test_other_loaders_have_other_features(learner, tiny_table):
    learn = learner()
    first = of(training_features(learn)[0])
    learn.dls = learner(loaders(tiny_table, size=48, bs=4)).dls
    assert not torch.allclose(of(training_features(learn)[0]), first)


def test_features_are_in_the_order_of_the_items_and_of_the_middle_of_the_image(learner, tiny_table):
    learn = learner(precision='fp32')
    for data, ds, of_valid in zip(training_features(learn), (learn.dls.train_ds, learn.dls.valid_ds), (False, True)):
        x, y = data.tensors
        rows = tiny_table[tiny_table.is_valid == of_valid]
        assert ds.items.file.tolist() == rows.file.tolist()
        assert [learn.dls.vocab[i] for i in y] == rows.label.tolist()
        one = image_features(learn, [rows.file.iloc[4]])
        assert torch.allclose(one[0], x[4], atol=1e-5) and not torch.allclose(one[0], x[3], atol=1e-3)


@pytest.mark.parametrize('head', ['linear', 'fastai'])
def test_features_are_what_body_and_pooling_make_of_a_normalised_square(learner, files, head):
    learn = learner(head=head, precision='fp32')
    mean, std = (torch.tensor(s).view(3, 1, 1) for s in (learn.backbone.mean, learn.backbone.std))
    x = torch.stack([(load_crop(f, 32)/255 - mean)/std for f in files])
    with torch.no_grad(): expected = split_head(learn.model[1])[0](learn.model[0].eval()(x))
    assert torch.allclose(feature_extractor(learn).compute(files, bs=7), expected, atol=1e-4) and expected.std() > 0.01


@pytest.mark.parametrize('head', ['linear', 'fastai'])
def test_features_times_head_are_the_networks_answers(learner, head):
    learn = learner(head=head, precision='fp32')
    nn.init.normal_(learn.model[1][-1].weight)
    (x, y), (_, rest) = training_features(learn)[1].tensors, split_head(learn.model[1])
    probs, targets = learn.get_preds()
    assert probs.std() > 0.01
    with torch.no_grad(): assert torch.allclose(rest.eval()(x).softmax(1), probs, atol=1e-4)
    assert torch.equal(y, targets) and type(x) is torch.Tensor


def test_features_can_be_trained_on_without_fastai(learner):
    x, y = training_features(learner())[0].tensors
    assert not x.is_inference() and not y.is_inference() and x.dtype == torch.float32


def test_views_are_the_middle_and_augmented_ones_behind_it(learner, computed, tiny_table):
    learn = learner(precision='fp32')
    train, valid = training_features(learn, views=3)
    rows = tiny_table[~tiny_table.is_valid]
    assert [learn.dls.vocab[i] for i in train.tensors[1]] == 3*rows.label.tolist() and len(valid) == 6
    assert Counter(view for _, view in computed) == {0: 18, 1: 12, 2: 12}
    middle, one, two = of(train).chunk(3)
    assert torch.equal(middle, image_features(learn, rows.file))
    assert min((a - b).abs().max(1).values.min() for a, b in ((middle, one), (middle, two), (one, two))) > 1e-3
    computed.clear()
    assert torch.equal(of(training_features(learner(seed=8, precision='fp32'), views=2)[0]), of(train)[:24]) and computed == []


def test_more_views_are_computed_for_the_same_learner(learner):
    learn = learner()
    assert [len(training_features(learn, views)[0]) for views in (1, 2, 1)] == [12, 24, 12]


def test_another_augmentation_has_views_of_its_own(learner, computed, tiny_table):
    training_features(learner(), views=2)
    computed.clear()
    learn = learner(loaders(tiny_table, size=32, bs=4, augment=[Augment(32, do_flip=False)]))
    training_features(learn, views=2)
    assert Counter(view for _, view in computed) == {1: 12}  # the middle is the same


@pytest.mark.parametrize('views', [0, -1])
def test_no_views_are_refused(learner, views):
    with pytest.raises(ValueError, match=f'views={views}: expected at least 1'): training_features(learner(), views)


def test_views_that_would_all_be_the_same_are_refused(learner, tiny_table):
    learn = learner(loaders(tiny_table, size=32, bs=4, augment=[]))
    with pytest.raises(ValueError, match='views=2: these loaders do not augment'): training_features(learn, 2)


def test_what_unknown_transforms_make_is_not_kept_on_disk(learner, computed, files, tiny_table, fresh_cache):
    learn = learner(loaders(tiny_table, size=32, bs=4, augment=aug_transforms(size=32)))
    assert feature_extractor(learn, 0).name is not None and feature_extractor(learn, 1).name is None
    for _ in range(2): image_features(learn, files, 1)
    assert len(computed) == 36 and not list(fresh_cache.glob('features-*'))
    class Mine(Augment): "Which may do anything"
    assert feature_extractor(learner(loaders(tiny_table, size=32, bs=4, augment=[Mine(32)])), 1).name is None


def test_computing_features_leaves_the_random_state_the_modes_and_gradients(learner, same_random_state, files):
    learn = learner()
    learn.model.train()
    learn.model[0].model.layer1.eval()
    before = [m.training for m in learn.model.modules()]
    for view in 0, 1:
        with same_random_state(): feature_extractor(learn, view).compute(files)
    assert [m.training for m in learn.model.modules()] == before and {True, False} == set(before)
    assert all(p.grad is None for p in learn.model.parameters()) and torch.is_grad_enabled()


def test_a_view_is_the_same_whatever_was_drawn_before(learner, files):
    learn = learner()
    one = feature_extractor(learn, 1).compute(files)
    torch.rand(7)
    assert torch.equal(feature_extractor(learn, 1).compute(files), one)


def test_the_order_of_the_loaders_is_left(learner):
    learn = learner()
    before = learn.dls.train.rng.getstate()
    training_features(learn, 2)
    assert learn.dls.train.rng.getstate() == before


def test_a_broken_image_is_named_and_nothing_is_kept(learner, own_files, fresh_cache):
    own_files[5].write_bytes(own_files[5].read_bytes()[:300])
    with pytest.raises(ImageProblem, match='red_5.png: broken or cut off'): image_features(learner(), own_files)
    assert not list(fresh_cache.glob('features-*'))


@pytest.mark.parametrize('error', [None, ValueError])
def test_evaluating_puts_every_part_back(error):
    module = nn.Sequential(nn.BatchNorm1d(2), nn.Sequential(nn.Dropout()))
    module[0].eval()
    def inside():
        with evaluating(module) as m:
            assert m is module and not any(p.training for p in m.modules()) and torch.is_inference_mode_enabled()
            if error: raise error
    if error:
        with pytest.raises(error): inside()
    else: inside()
    assert [m.training for m in module.modules()] == [True, False, True, True] and not torch.is_inference_mode_enabled()


@pytest.mark.parametrize('head', ['linear', 'fastai'])
@pytest.mark.parametrize('arch, pooled', [('resnet18', True), ('test_resnet', True), ('test_vit', False)])
def test_split_head_parts_the_pooling_from_the_rest_and_loses_no_layer(arch, pooled, head):
    layers = build_model(arch, 3, head)[1]
    pool, rest = split_head(layers)
    assert [*pool, *rest] == list(layers)
    if head == 'fastai' or pooled: assert (any('Pool' in type(m).__name__ for m in pool)) == pooled
    assert not list(pool.parameters()) and not any(isinstance(m, nn.Dropout) for m in pool)
    assert isinstance(rest[0], nn.Linear if head == 'linear' else (nn.BatchNorm1d, nn.Dropout))


def test_a_fingerprint_knows_weights_and_buffers_from_others():
    bn = nn.BatchNorm1d(3)
    seen = {fingerprint(bn)}
    for tensor in bn.weight.data, bn.running_mean, bn.num_batches_tracked:
        tensor += 1
        seen.add(fingerprint(bn))
    assert len(seen) == 4 and fingerprint(bn) in seen


def test_the_memory_order_of_the_weights_does_not_change_the_fingerprint():
    conv = nn.Conv2d(3, 4, 3)
    before = fingerprint(conv)
    assert fingerprint(conv.to(memory_format=torch.channels_last)) == before


def test_real_pets_features_are_of_their_image(pets_dir, fresh_cache, tmp_path):
    from pet_classifier.data.images import list_images
    from pet_classifier.data.labels import label_by_name
    table = random_split(label_by_name(list_images(pets_dir)[:60]), seed=1)
    learn = pet_learner(loaders(table, size=64, bs=16), 'test_resnet', 'none', precision='fp32')
    train = training_features(learn)[0]
    for i in 0, 7, 20:
        with Image.open(table[~table.is_valid].file.iloc[i]) as im: x = load_crop(im.convert('RGB'), 64)
        x = (x[None]/255 - torch.tensor(learn.backbone.mean).view(3, 1, 1))/torch.tensor(learn.backbone.std).view(3, 1, 1)
        with torch.no_grad(): mine = split_head(learn.model[1])[0](learn.model[0].eval()(x))[0]
        far = (of(train) - mine).norm(dim=1)
        assert int(np.argmin(far.numpy())) == i


def test_features_of_several_sizes_are_cached_apart_and_are_those_of_the_network(tiny_folder, fresh_cache):
    files = list_images(tiny_folder)[:4]
    names, rows = [], []
    for sizes in (48,), (32, 48), (40, 48):
        torch.manual_seed(0)
        model = build_model('test_resnet', 2, sizes=sizes)
        extractor = FeatureExtractor(model, 48, Preprocess((0.5,)*3, (0.2,)*3))
        names.append(extractor.name)
        rows.append(extractor(files))
        assert torch.equal(rows[-1], extractor(files)) and torch.allclose(rows[-1], extractor.compute(files), atol=1e-4)
        with evaluating(model): logits = model(extractor.preprocess(load_crops(files, 48)))
        assert torch.allclose(logits, model[1][-1](rows[-1]), atol=1e-4)
        assert ('sizes' in extractor.facts()) == (len(sizes) > 1)  # what one size wrote stays valid
    assert len(set(names)) == 3 and not torch.allclose(rows[0], rows[1], atol=0.1)
