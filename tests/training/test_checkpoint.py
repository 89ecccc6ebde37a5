"A checkpoint is written by a thread, at most once a minute and at the end; what it holds is one finished epoch, whole."
from threading import Event

import pytest

from pet_classifier.training import checkpoint as module
from pet_classifier.training.checkpoint import Checkpoint, read_tensors
from pet_classifier.training.head import fit_head


@pytest.fixture
def clock(monkeypatch):
    "Seconds that pass only if a test says so"
    now = [1000.]
    monkeypatch.setattr(module, 'monotonic', lambda: now[0])
    return now


@pytest.fixture
def written(monkeypatch):
    "The number of the epoch in each checkpoint that was written"
    numbers, write = [], module.write_tensors
    def noted(file, kind, metadata, tensors):
        write(file, kind, metadata, tensors)
        numbers.append(metadata['done'])
    monkeypatch.setattr(module, 'write_tensors', noted)
    return numbers


@pytest.fixture
def fit(learner, tmp_path):
    "A function that trains the head, calls `after_epoch(number of the epoch)`, and gives the learner"
    def fit(after_epoch=lambda n: None, epochs=10, **how):
        class Saved(Checkpoint):
            def write(self, learn):
                after_epoch(learn.epoch + 1)
                super().write(learn)
        learn = learner()
        fit_head(learn, epochs, checkpoint=Saved(tmp_path/'last.safetensors', **how))
        return learn
    return fit


@pytest.mark.parametrize('seconds, at_most', [(25, [3, 6, 9, 10]), (60, range(1, 11)), (200, range(1, 11)), (1, [10])])
def test_no_more_than_one_a_minute_and_one_at_the_end(fit, clock, written, seconds, at_most):
    def later(n): clock[0] += seconds
    fit(later)
    assert written[-1] == 10 and {*written} <= {*at_most} and len(written) <= 1 + 10*seconds/60


def test_every_0_writes_each_epoch(fit, clock, written):
    fit(every=0)
    assert written == list(range(1, 11))


@pytest.mark.parametrize('error', [KeyboardInterrupt, ValueError])
def test_what_was_reached_is_written_when_training_stops(fit, clock, written, tmp_path, error):
    def stop(n):
        if n == 4: raise error
    with pytest.raises(error): fit(stop)
    metadata, _ = read_tensors(tmp_path/'last.safetensors', 'checkpoint')
    assert written == [3] and len(metadata['callbacks']['EpochTable']['rows']) == 3


def test_training_goes_on_while_a_slow_disk_writes_and_the_file_holds_the_epoch_it_names(
        fit, clock, written, monkeypatch, tmp_path):
    "The second epoch is due while the first is not written: it waits for its turn, and the others replace it"
    write, done, found = module.write_tensors, Event(), []
    def slow(*args):
        assert done.wait(60)
        write(*args)
        found.append((args[2]['done'], len(args[2]['callbacks']['EpochTable']['rows']), len(args[2]['recorder']['values'])))
    monkeypatch.setattr(module, 'write_tensors', slow)
    def later(n):
        clock[0] += 61
        if n == 9: done.set()
    fit(later)
    assert found[0] == (1, 1, 1) and found[-1] == (10, 10, 10) and all(a == b == c for a, b, c in found)


@pytest.mark.parametrize('seconds, epochs', [(61, 1), (0, 10)])
def test_an_error_of_the_thread_stops_training_at_the_next_epoch_or_at_the_end(fit, clock, monkeypatch, seconds, epochs):
    def full(*args): raise OSError('no space left')
    monkeypatch.setattr(module, 'write_tensors', full)
    seen, wait = [], Event()
    def later(n):
        seen.append(n)
        clock[0] += seconds
        wait.wait(0.1)
    with pytest.raises(OSError, match='no space left'): fit(later)
    assert epochs <= len(seen) <= max(3, epochs)


def test_what_is_written_is_the_state_after_the_epoch_and_not_what_training_makes_of_it(fit, clock, monkeypatch, tmp_path):
    whole = fit()
    def stop(n):
        clock[0] += 61
        if n == 4: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): fit(stop)
    resumed = fit(resume=True)
    pairs = zip(whole.model.parameters(), resumed.model.parameters(), strict=True)
    assert all(a.equal(b) for a, b in pairs) and len(resumed.epoch_table.rows) == 10


def test_only_the_first_process_writes(fit, written, monkeypatch):
    monkeypatch.setattr(module, 'rank_distrib', lambda: 1)
    fit(every=0)
    assert written == []
