"What a notebook gets from `pet_classifier.all` is there, is ours, and hides nothing of fastai's."
import ast
import importlib
import pkgutil
from pathlib import Path

import fastai.vision.all as fastai_all
import pytest

import pet_classifier
import pet_classifier.all as ours

MODULES = sorted(m.name.removeprefix('pet_classifier.') for m in pkgutil.walk_packages(pet_classifier.__path__, 'pet_classifier.')
                 if not m.ispkg and not m.name.endswith(('._modidx', '.all')))


@pytest.mark.parametrize('module', MODULES)
def test_every_name_that_a_module_lists_is_there_once(module):
    loaded = importlib.import_module(f'pet_classifier.{module}')
    assert loaded.__all__ and len(set(loaded.__all__)) == len(loaded.__all__)
    assert not [name for name in loaded.__all__ if not hasattr(loaded, name) or name.startswith('_')]


def names_of(module): return [name for name in vars(module) if not name.startswith('_')]


def test_all_has_few_names_and_each_is_its_modules():
    names = names_of(ours)
    assert 50 < len(names) < 75
    imported = ast.walk(ast.parse(Path(ours.__file__).read_text(encoding='utf-8')))
    listed = {alias.name: node.module for node in imported if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert sorted(listed) == sorted(names)
    for name, module in listed.items():
        assert getattr(ours, name) is getattr(importlib.import_module(f'pet_classifier.{module}'), name)


def test_no_name_of_ours_hides_another_of_fastais():
    names = names_of(ours)
    assert not [name for name in names if getattr(fastai_all, name, getattr(ours, name)) is not getattr(ours, name)]


def test_all_has_what_the_lesson_calls():
    names = ('dataset list_images label_by_name random_split loaders pet_learner fit_head find_lr fine_tune interpret '
             'save_bundle Predictor label_by_path label_by_folder label_by_function label_from_csv label_from_df '
             'label_from_lists').split()
    assert all(callable(getattr(ours, name)) for name in names)
