"The GPU is hidden from all tests but those that are marked and asked for."
import os
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

CONFTEST = Path(__file__).with_name('conftest.py')


@pytest.mark.parametrize('asked, seen', [('', ''), ('gpu', '3'), ('not gpu', ''), ('not slow', '')])
def test_only_tests_marked_gpu_see_the_gpu(monkeypatch, asked, seen):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '3')
    runpy.run_path(str(CONFTEST))['pytest_configure'](SimpleNamespace(getoption=dict(markexpr=asked).__getitem__))
    assert os.environ['CUDA_VISIBLE_DEVICES'] == seen
