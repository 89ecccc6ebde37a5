"Unknown keywords are refused, and former ones answered with the current name."
import re
from inspect import signature

import pytest

from pet_classifier.core.keywords import BELONGS, KEYWORDS, refuse_unknown
from pet_classifier.data import labels
from pet_classifier.data.augment import Augment
from pet_classifier.data.loaders import PetLoaders, loaders
from pet_classifier.data.splits import random_split
from pet_classifier.run import train_run
from pet_classifier.training.fine_tuning import fine_tune
from pet_classifier.training.head import fit_head
from pet_classifier.training.learner import pet_learner
from pet_classifier.training.lr_finder import find_lr

LABELLING = [getattr(labels, name) for name in labels.__all__ if name.startswith('label_') or name == 'preview_pattern']
REFUSING = [*LABELLING, random_split, loaders, PetLoaders.show_batch, pet_learner, fit_head, find_lr, fine_tune, train_run]
STEPS = [f for f in REFUSING if f is not train_run]  # whose keywords are in the tables

OWNERS = {f.__name__: f for f in (*REFUSING, Augment)}


def known(func): return [p for p in signature(func).parameters if p != 'self']


@pytest.mark.parametrize('func', REFUSING, ids=lambda f: f.__name__)
def test_an_unknown_keyword_is_refused_before_anything_is_done(func):
    message = f"{func.__name__}() has no keyword 'nonsense': expected one of {', '.join(known(func))}"
    with pytest.raises(TypeError, match=re.escape(message)): func(None, nonsense=1)


@pytest.mark.parametrize('func', STEPS, ids=lambda f: f.__name__)
@pytest.mark.parametrize('name', KEYWORDS)
def test_a_former_keyword_is_refused_with_the_current_one_and_its_function(func, name):
    theirs, todays = KEYWORDS[name]
    with pytest.raises(TypeError, match=re.escape(f'{func.__name__}() has no keyword {name!r}: ')) as caught:
        func(None, **{name: 1})
    message = str(caught.value)
    assert theirs in message and todays in message
    assert todays in known(func) or f'given to {BELONGS[todays]}()' in message


@pytest.mark.parametrize('func', STEPS, ids=lambda f: f.__name__)
def test_no_current_keyword_is_listed_as_a_former_one(func):
    assert not {name for name, (_, todays) in KEYWORDS.items() if name != todays} & set(known(func))


@pytest.mark.parametrize('name, owner', BELONGS.items())
def test_keywords_are_listed_for_functions_that_take_them(name, owner):
    assert name in known(OWNERS[owner])


@pytest.mark.parametrize('func, kwargs, message', [
    (loaders, dict(ds_tfms=[]), "fastai 2 has item_tfms and batch_tfms for it, here it is 'augment'"),
    (PetLoaders.show_batch, dict(rows=3), "show_batch() has no keyword 'rows': here it is 'nrows'"),
    (fine_tune, dict(max_lr=1e-3), "fastai 2 has lr_max for it, here it is 'lr'"),
    (fine_tune, dict(lr_max=1e-3), "fine_tune() has no keyword 'lr_max': here it is 'lr'"),
    (pet_learner, dict(bs=48), "pet_learner() has no keyword 'bs': it is given to loaders()"),
    (loaders, dict(do_flip=False), "fastai 2 has aug_transforms(do_flip=...) for it, here it is 'augment'"),
    (pet_learner, dict(callback_fns=[]), "pet_learner() has no keyword 'callback_fns': here it is 'cbs'"),
    (labels.label_by_name, dict(seed=2), "label_by_name() has no keyword 'seed': it is given to random_split()"),
    (loaders, dict(pat='x'), "loaders() has no keyword 'pat': here it is 'pattern', given to label_by_name()"),
], ids=lambda value: getattr(value, '__name__', str(value)))
def test_messages(func, kwargs, message):
    with pytest.raises(TypeError, match=re.escape(message)): func(None, **kwargs)


def test_the_decorator_keeps_behaviour_and_signature():
    def double(x, y=1): return 2*x + y
    guarded = refuse_unknown(double)
    assert guarded(3) == 7 and guarded(3, y=2) == 8 and guarded.__name__ == 'double'
    assert signature(guarded) == signature(double)


def test_the_loaders_of_a_learner_refuse_unknown_keywords(learner):
    with pytest.raises(TypeError, match="'nrows'"): learner().dls.show_batch(rows=3)
