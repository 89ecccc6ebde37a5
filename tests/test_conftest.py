"The GPU is hidden from all tests but those that are marked and asked for."
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import os
import pytest
def test_any(): assert os.environ['CUDA_VISIBLE_DEVICES'] == ''
@pytest.mark.gpu
def test_marked(): assert os.environ['CUDA_VISIBLE_DEVICES'] == '3'
"""
INI = '[pytest]\nmarkers = gpu: needs one\n'


@pytest.mark.slow
@pytest.mark.parametrize('words, passed', [([], '1 failed, 1 passed'), (['-m', 'gpu'], '1 passed, 1 deselected'),
                                           (['-m', 'not gpu'], '1 passed, 1 deselected')])
def test_only_tests_marked_gpu_see_the_gpu(tmp_path, words, passed):
    shutil.copy(Path(__file__).with_name('conftest.py'), tmp_path)
    for name, text in {'test_it.py': TESTS, 'pytest.ini': INI}.items(): (tmp_path/name).write_text(text)
    done = subprocess.run([sys.executable, '-m', 'pytest', '-p', 'no:cacheprovider', *words, tmp_path], cwd=tmp_path,
                          env=os.environ | dict(CUDA_VISIBLE_DEVICES='3'), capture_output=True, text=True)
    assert passed in done.stdout, done.stdout + done.stderr
