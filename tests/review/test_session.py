"Decisions are kept, and nobody's is overwritten."
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pet_classifier.data.corrections import Corrections
from pet_classifier.review.session import Conflict, copy_reviewed, rename_class
from pet_classifier.review.source import default_corrections, open_data, training_commands


def test_a_review_goes_on_where_it_stopped(session, row):
    first = session()
    first.decide(row('green_90.jpg'), 'relabel', 'red')
    first.decide(row('red_1.jpg'), 'keep')
    again = session()
    assert {again.paths[i].name: d.decision for i, d in again.decided.items()} == {'green_90.jpg': 'relabel', 'red_1.jpg': 'keep'}
    assert again.labels()[row('green_90.jpg')] == 'red'
    assert row('green_90.jpg') not in again.state()['queues']['label issues']


def test_the_wrong_labels_are_label_issues(session, row):
    assert {row('green_90.jpg'), row('red_91.jpg')} <= {*session().state()['queues']['label issues']}


def test_a_decision_that_was_not_seen_is_not_overwritten(session, row):
    one, other = session(), session()
    one.decide(row('red_91.jpg'), 'relabel', 'blue', seen=0)
    with pytest.raises(Conflict, match='elsewhere'): other.decide(row('red_91.jpg'), 'exclude', seen=0)
    assert other.decided[row('red_91.jpg')].label == 'blue' and one.version == 1
    other.decide(row('red_91.jpg'), 'exclude', seen=1)
    one.refresh()
    assert one.decided[row('red_91.jpg')].decision == 'exclude'


def test_undo_opens_an_image_again(session, row):
    s = session()
    s.decide(row('red_1.jpg'), 'exclude')
    s.decide(row('red_1.jpg'), 'undo', seen=s.version)
    assert not s.decided and s.version == 2 and s.state(1)['decided'] == {row('red_1.jpg'): None}


@pytest.mark.parametrize('decision, label, why', [('rename', 'x', 'expected keep'), ('relabel', '', 'without a label'),
                                                  ('relabel', 'x'*101, 'at most 100'), ('relabel', 'a\u202eb', 'printable')])
def test_a_decision_that_means_nothing_is_refused(session, row, decision, label, why):
    s = session()
    with pytest.raises(ValueError, match=why): s.decide(row('red_1.jpg'), decision, label)
    assert s.version == 0


def test_the_suggestion_that_is_the_given_label_keeps_it(session, row):
    s = session()
    s.decide(row('red_1.jpg'), 'relabel', 'red')
    assert s.decided[row('red_1.jpg')].decision == 'keep'


def test_the_queues_are_ordered_again_after_some_decisions(session, row):
    s = session(every=2)
    fit = s.fit
    s.decide(row('red_1.jpg'), 'keep')
    assert s.fit == fit
    s.decide(row('green_90.jpg'), 'relabel', 'red')
    s.worker.shutdown()
    assert s.fit == fit + 1 and s.current[row('green_90.jpg')] == 'red'


def test_duplicates_and_broken_files_have_their_queues(session, folder, opened, row):
    opened.files[row('green_1.jpg')].write_bytes(opened.files[row('red_2.jpg')].read_bytes())
    s = session(opened._replace(features=np.random.default_rng(0).normal(size=(18, 8)).astype(np.float32)))
    s.find_duplicates()
    queues = s.state()['queues']
    assert {row('red_2.jpg')} & {*queues['duplicates']} and queues['broken files'] == [len(opened.files)]
    item = s.item(row('red_2.jpg'))
    assert item['strips'][0] == dict(title='looks the same', ids=[row('green_1.jpg')])
    assert 'labeled green' in item['reasons']['duplicates']


def test_the_nearest_images_are_of_both_classes(session, row):
    s = session()
    item = s.item(row('green_90.jpg'))
    assert (item['given'], item['predicted']) == ('green', 'red') and item['confidence'] > item['self_confidence']
    assert [{*s.current[strip['ids']]} for strip in item['strips']] == [{'green'}, {'red'}]
    assert row('green_90.jpg') not in item['strips'][0]['ids']


def test_an_error_in_the_background_is_shown(session, capsys):
    s = session()
    def fail(): raise RuntimeError('out of luck')
    s.start(fail).result()
    assert s.state()['problem'] == 'RuntimeError: out of luck' and not s.state()['busy']
    assert 'out of luck' in capsys.readouterr().err


def test_images_are_labeled_from_nothing_and_copied(session, opened, folder, tmp_path, row):
    unlabeled = opened._replace(labels=np.full(len(opened.files), '', dtype=object))
    s = session(unlabeled, classes=('red',))
    assert s.state()['classes'] == ['red'] and len(s.state()['queues']['to label']) == 18
    with pytest.raises(ValueError, match='no label to keep'): s.decide(row('red_1.jpg'), 'keep')
    for name in ('red_1', 'red_2', 'green_1', 'green_2'): s.decide(row(f'{name}.jpg'), 'relabel', name.split('_')[0])
    s.refit()
    assert s.item(row('green_3.jpg'))['predicted'] == 'green'
    said = copy_reviewed(unlabeled, s.corrections, tmp_path/'out')
    assert said.startswith('4 images of 2 classes')
    assert sorted(f.name for f in (tmp_path/'out'/'red').iterdir()) == ['red_1.jpg', 'red_2.jpg']
    assert len([*folder.iterdir()]) == 19
    assert training_commands(unlabeled, 'c.csv').endswith('--apply labeled\npet-classifier train labeled --out run')


@pytest.mark.slow
def test_a_folder_and_its_run_are_opened_with_the_same_labels(tiny_run, tmp_path):
    frozen = shutil.copytree(tiny_run.out, tmp_path/'run')
    metrics = json.loads((frozen/'metrics.json').read_text())
    (frozen/'metrics.json').write_text(json.dumps(metrics | dict(epochs=0)))
    data, run = open_data(tiny_run.data), open_data(frozen)
    assert sorted(f.name for f, *_ in data.broken) == ['blue_91.jpg', 'red_90.jpg'] and {*run.sides} >= {'train', 'valid'}
    assert dict(zip(run.files, run.labels)) == dict(zip(data.files, data.labels)) and len(data.files) == 18
    assert data.root == run.root and run.data == str(tiny_run.data)
    assert Corrections(tmp_path/'c.csv', data.root).name(data.files[0]) == data.files[0].name


def test_images_without_labels_are_opened(folder):
    data = open_data(folder, classes=('a', 'b'))
    assert {*data.labels} == {''} and len(data.files) == 18


def test_decisions_about_a_run_go_to_the_file_that_it_was_trained_with(tmp_path):
    (run := tmp_path/'run').mkdir()
    assert default_corrections(run) == Path('corrections.csv')
    (run/'run.json').write_text('{"options": {}}')
    assert default_corrections(run) == run/'corrections.csv'
    (run/'run.json').write_text(json.dumps(dict(corrections=dict(file=str(tmp_path/'mine.csv')))))
    assert default_corrections(run) == tmp_path/'mine.csv'


def test_a_class_is_renamed_or_merged_also_once_more(opened, session):
    s = session()
    assert rename_class(opened, s.corrections, 'red=crimson') == '6 images of red are now crimson'
    assert rename_class(opened, s.corrections, 'crimson=blue') == '6 images of crimson are now blue, which has 5 already'
    assert sorted(set(session().labels())) == ['blue', 'green']


@pytest.mark.parametrize('text, message', [('pink=red', "no class 'pink'; expected one of blue, green, red"),
                                           ('red', 'expected OLD=NEW'),
                                           ('red= ', 'expected OLD=NEW'), ('=red', "no class ''"), ('red=red', 'cannot record')])
def test_a_class_is_not_renamed_by_mistake(opened, session, text, message):
    s = session()
    with pytest.raises(ValueError, match=message): rename_class(opened, s.corrections, text)
    assert s.corrections.read() == []
