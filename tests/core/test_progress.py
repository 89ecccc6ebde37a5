"The table of epochs: about ten rows are shown, all are recorded, none without logging."
import sys

import pytest
from fastai.callback.core import Callback, CancelFitException
from fastai.callback.progress import ProgressCallback
from fastai.learner import AvgLoss, AvgSmoothLoss, Metric
from fastai.metrics import accuracy, error_rate
from fastai.torch_core import no_random

from pet_classifier.core.progress import EpochTable, history
from pet_classifier.data.loaders import loaders
from pet_classifier.training.fine_tuning import fine_tune
from pet_classifier.training.head import fit_head, on_features

COLUMNS = ['stage', 'epoch', 'train_loss', 'valid_loss', 'error_rate', 'seconds']


@pytest.mark.parametrize('epochs, shown', [(1, [0]), (10, range(10)), (11, [1, 3, 5, 7, 9, 10]), (25, [*range(2, 25, 3), 24])])
def test_a_pipe_gets_a_header_and_about_ten_plain_lines(learner, capsys, epochs, shown):
    fit_head(learner(), epochs)
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == COLUMNS[1:]
    assert [int(line.split()[0]) for line in lines] == list(shown)
    assert all(len(line) == len(head) and line.isprintable() for line in lines)


def test_a_terminal_shows_the_current_batch(learner, capsys, monkeypatch):
    monkeypatch.setattr(EpochTable, 'pause', 0)
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True)
    learner(weights='none').fit(1)
    out = capsys.readouterr().out
    assert out.count('\repoch 1 of 1, batch') == 3 and '\repoch 1 of 1, batch 3 of 3\033[K' in out
    assert out.split('\033[K')[-1].splitlines()[0].split() == COLUMNS[1:]


def test_a_terminal_shows_the_steps_of_validate_and_lr_find(learner, capsys, monkeypatch):
    monkeypatch.setattr(EpochTable, 'pause', 0)
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True)
    learn = learner(weights='none')
    learn.validate()
    out = capsys.readouterr().out
    assert out.count('\rvalidation batch ') == 2 and out.endswith('\r\033[K') and '\n' not in out
    learn.lr_find(num_it=5, show_plot=False, suggest_funcs=None)
    assert '\rstep 5\033[K' in (out := capsys.readouterr().out) and '\n' not in out and history(learn).empty


def test_nothing_is_shown_or_recorded_without_logging(learner, capsys):
    learn = learner()
    learn.validate()
    learn.get_preds()
    with on_features(learn): learn.lr_find(num_it=20, show_plot=False)
    with learn.no_logging(): learn.fit(1)
    assert capsys.readouterr().out == '' and history(learn).empty


def test_validating_after_a_fit_adds_no_row(learner):
    learn = learner()
    fit_head(learn, 2)
    learn.validate()
    assert len(history(learn)) == 2


def test_history_has_one_row_per_epoch_with_stage_and_metrics(learner):
    learn = learner()
    fit_head(learn, 12)
    fine_tune(learn, 2)
    table = history(learn)
    assert list(table) == COLUMNS
    assert table.stage.tolist() == ['head']*12 + ['fine-tune']*2 and table.epoch.tolist() == [*range(12), 0, 1]
    assert (table.seconds >= 0).all() and table.notna().all(axis=None)
    assert table.iloc[-1][['train_loss', 'valid_loss', 'error_rate']].tolist() == pytest.approx(list(learn.recorder.values[-1]))


def test_history_of_a_learner_that_was_never_trained_is_empty(learner): assert history(learner()).empty


def test_an_interrupted_fit_records_the_finished_epochs(learner, raises):
    learn = learner(weights='none')
    with pytest.raises(KeyboardInterrupt): learn.fit(3, cbs=raises(KeyboardInterrupt, at=8))  # 3 batches per epoch
    assert history(learn).epoch.tolist() == [0, 1]
    learn.fit(1)
    assert history(learn).epoch.tolist() == [0, 1, 0]


def test_other_metrics_have_their_columns(learner):
    from fastai.metrics import accuracy, error_rate
    learn = learner(metrics=[error_rate, accuracy])
    fit_head(learn, 1)
    row = history(learn).iloc[0]
    assert row.accuracy == pytest.approx(1 - row.error_rate)


def test_fastais_progress_bar_is_removed(learner):
    learn = learner(cbs=ProgressCallback())
    assert not [cb for cb in learn.cbs if isinstance(cb, ProgressCallback)]


def with_fastais_averages(learn):
    "Return `learn` with fastai's own averages"
    learn.recorder.loss, learn.recorder.smooth_loss = AvgLoss(), AvgSmoothLoss()
    learn.metrics = [error_rate, accuracy]
    return learn


def test_averages_equal_those_of_fastai_bit_for_bit(learner, tiny_table):
    def fit(change=lambda learn: learn):
        learn = change(learner(loaders(tiny_table, size=32, bs=4, device='cpu'), metrics=[error_rate, accuracy]))
        with no_random(3), learn.no_logging(): learn.fit_one_cycle(3, 1e-2)
        return [list(map(float, v)) for v in learn.recorder.values], list(map(float, learn.recorder.losses)), learn
    values, losses, ours = fit()
    their_values, their_losses, theirs = fit(with_fastais_averages)
    assert values == their_values and losses == their_losses and len(losses) == 9
    assert ours.validate() == theirs.validate() and list(ours.recorder.metric_names) == list(theirs.recorder.metric_names)


def test_averages_are_weighted_by_batch_size(learner, tiny_table):
    def validated(bs): return list(learner(loaders(tiny_table, size=32, bs=bs, device='cpu'), head='fastai').validate())
    assert validated(4) == pytest.approx(validated(6), abs=1e-5)  # of 6 images: 4 and 2, or 6


def test_a_custom_metric_is_not_replaced(learner):
    class Half(Metric):
        "A metric that is always 0.5"
        name, value = 'half', 0.5
        def accumulate(self, learn): "Nothing to add up"
    mine = Half()
    learn = learner(metrics=[mine, error_rate])
    assert learn.metrics[0] is mine and learn.validate()[1] == 0.5


@pytest.fixture
def notebook(monkeypatch):
    "A notebook and a clock: the times at which something was drawn, with what; the seconds of a batch can be set"
    from pet_classifier.core import progress
    now, drawn = [0.], []
    monkeypatch.setattr(progress, 'in_notebook', lambda: True)
    monkeypatch.setattr(progress, '_html_display', lambda: lambda html: drawn.append((now[0], html)))
    monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
    return now, drawn


class Takes(Callback):
    "Lets `seconds` pass with each batch"
    order = 0
    def __init__(self, now, seconds): self.now, self.seconds = now, seconds
    def after_batch(self): self.now[0] += self.seconds


@pytest.mark.parametrize('seconds', [0, 0.01, 0.1, 1])
@pytest.mark.parametrize('epochs', [1, 9])
def test_a_notebook_is_drawn_at_most_four_times_a_second_and_shows_the_end(learner, notebook, seconds, epochs):
    now, drawn = notebook
    learner(weights='none', cbs=Takes(now, seconds)).fit(epochs)
    *times, end = [t for t, _ in drawn]
    assert all(b - a >= 0.25 for a, b in zip(times, times[1:])) and len(times) <= 1 + 4*now[0] and end == now[0]
    assert drawn[-1][1].count('<tr') == epochs + 1 and '<p>' not in drawn[-1][1]


def test_a_notebook_shows_where_a_fit_was_cancelled(learner, notebook, raises):
    now, drawn = notebook
    learner(weights='none', cbs=Takes(now, 0.01)).fit(3, cbs=raises(CancelFitException, at=8))
    assert drawn[-1][1].count('<tr') == 3 and 'epoch 3 of 3, batch 1 of 3' in drawn[-1][1]
