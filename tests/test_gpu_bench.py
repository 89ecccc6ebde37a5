"The benchmark of a GPU says what it needs where there is none, and its clocks add up."
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from fastai.callback.core import CancelFitException

from pet_classifier.data.loaders import loaders
from pet_classifier.training.fine_tuning import fine_tune

pytestmark = pytest.mark.slow

HERE = Path(__file__).parents[1]/'benchmarks'


@pytest.fixture
def run(monkeypatch):
    "A function that runs the benchmark with these words as its command line"
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.delenv('PETS_DIR', raising=False)
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    def run(*words):
        monkeypatch.setattr(sys, 'argv', ['gpu.py', *words])
        runpy.run_path(str(HERE/'gpu.py'), run_name='__main__')
    return run


@pytest.mark.parametrize('words, said', [
    ([], 'needs a GPU that torch can use'), (['--device', 'cpu'], 'only with --tiny'),
    (['--device', 'cpu', '--tiny', '--images', 'nowhere'], "no folder 'nowhere'"),
    (['--device', 'cpu', '--tiny', '--repeats', '0'], 'expected at least 1')])
def test_what_cannot_be_measured_is_refused_in_words(run, capsys, words, said):
    with pytest.raises(SystemExit, match='2'): run(*words)
    assert said in capsys.readouterr().err


def test_the_shares_of_the_parts_are_of_the_whole_and_only_some_batches_are_trained(learner, tiny_table, monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    from measure import parts
    learn = learner(loaders(tiny_table, size=32, bs=2, device='cpu'), weights='none')
    found = parts(learn, lambda: fine_tune(learn, 2, 1e-3), bs=2, steps=5, uncounted=2)
    assert found['loading'] + found['gradients'] + found['step'] == pytest.approx(1)
    assert found['rate'] > 0 and found['busy'] is None and len(learn.recorder.losses) == 4  # the fifth was not noted any more
    assert all(found[part] > 0 for part in ('loading', 'gradients', 'step'))


def test_the_share_that_a_gpu_is_busy_is_of_the_time_without_the_profilers_own_start_and_stop(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    import measure
    now = [0.]
    class Profile:
        def __init__(self, activities): pass
        def start(self): now[0] += 3.5
        def stop(self): now[0] += 1
        def key_averages(self): return [SimpleNamespace(self_device_time_total=900_000.)]
    monkeypatch.setattr(measure, 'profile', Profile)
    monkeypatch.setattr(measure.time, 'perf_counter', lambda: now[0])
    monkeypatch.setattr('torch.cuda.synchronize', lambda: None)
    busy = measure.BusyClock(1, 3)
    busy.learn = SimpleNamespace(training=True)
    with pytest.raises(CancelFitException):
        for _ in range(3):
            busy.after_batch()
            now[0] += 0.5
    assert busy.share == pytest.approx(0.9)
