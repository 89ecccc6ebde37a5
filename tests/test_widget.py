"The widget shows what may be wrong, appends each click to the corrections file, and works in a real JupyterLab."
import builtins
import shutil

import pandas as pd
import pytest

from pet_classifier.data.corrections import Corrections, apply_corrections
from pet_classifier.data.labels import label_by_folder
from pet_classifier.widget import review

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def photos(tmp_path_factory, draw):
    "Eight images of each of two colors in class folders; one red image is in the folder of the blue ones"
    folder = tmp_path_factory.mktemp('photos')
    for n, label in enumerate(['red', 'blue']):
        for i in range(8): draw(folder/label/f'{i}.png', 'red' if (label, i) == ('blue', 7) else label, 10*n + i)
    return folder


class Shown:
    "A widget and what can be done with it"
    def __init__(self, photos, corrections, table=None, **kwargs):
        self.log, table = Corrections(corrections, photos), label_by_folder(photos) if table is None else table
        self.box = review(table, corrections, photos, **kwargs)

    def every(self, widget=None):
        "Return all widgets"
        widget = self.box if widget is None else widget
        return [widget, *(w for child in getattr(widget, 'children', ()) for w in self.every(child))]

    def one(self, kind): return next(w for w in self.every() if type(w).__name__ == kind)
    def button(self, name): return next(w for w in self.every() if getattr(w, 'description', '') == name)
    def click(self, *names): [self.button(name).click() for name in names]
    def text(self): return ' '.join(w.value for w in self.every() if type(w).__name__ == 'HTML')
    def rows(self): return [d[:4] for d in self.log.read()]


@pytest.fixture
def shown(photos, tmp_path): return lambda **kwargs: Shown(photos, tmp_path/'corrections.csv', **kwargs)


def queue(photos, *names):
    return pd.DataFrame(dict(file=[photos/n for n in names], predicted_label='blue', confidence=.75, reason='a guess'))


def test_the_image_with_the_wrong_label_comes_first(shown):
    w = shown()
    assert 'file: <b>blue/7.png</b>' in w.text() and 'given label: <b>blue</b>' in w.text() and 'suggestion: <b>red (' in w.text()
    assert w.one('Image').value[:3] == b'\xff\xd8\xff' and 'nearest: blue' in w.text() and 'nearest: red' in w.text()
    w.click('Take suggestion')
    assert w.rows() == [('blue/7.png', 'blue', 'relabel', 'red')]
    table, counts = apply_corrections(label_by_folder(w.log.root), w.log)
    assert counts.relabeled == 1 and (table.label == 'red').sum() == 9


def test_each_button_appends_a_row_at_once_and_goes_on(shown, photos):
    w = shown(queue=queue(photos, 'red/0.png', 'red/1.png', 'red/2.png', 'blue/0.png'))
    assert w.one('Label').value == '0 of 4' and 'suggestion: <b>blue (75%)' in w.text() and 'why: <b>a guess' in w.text()
    w.click('Keep')
    assert w.rows() == [('red/0.png', 'red', 'keep', '')] and 'red/1.png' in w.text()
    w.click('Take suggestion', 'Exclude')
    assert w.rows()[1:] == [('red/1.png', 'red', 'relabel', 'blue'), ('red/2.png', 'red', 'exclude', '')]
    assert w.one('Label').value == '3 of 4' and w.one('IntProgress').value == 3
    assert w.button('Take suggestion').disabled # it is the given label
    w.one('Combobox').value = ' a new class '
    assert len(w.rows()) == 3 # typing decides nothing
    w.click('Set class')
    assert w.rows()[3] == ('blue/0.png', 'blue', 'relabel', 'a new class')
    assert 'All 4 images of this queue are decided' in w.text()
    assert 'a new class' in w.one('Combobox').options and w.one('Combobox').value == ''
    w.click('Undo', 'Undo')
    assert [r[2] for r in w.rows()[4:]] == ['undo', 'undo'] and w.one('Label').value == '2 of 4' and 'red/2.png' in w.text()
    assert set(w.log.decisions()) == {'red/0.png', 'red/1.png'}


def test_one_goes_on_where_one_stopped(shown, photos):
    some = queue(photos, 'red/0.png', 'red/1.png')
    shown(queue=some).click('Keep')
    again = shown(queue=some)
    assert again.one('Label').value == '1 of 2' and 'red/1.png' in again.text()
    again.click('Previous')
    assert 'red/0.png' in again.text() and 'decision: <b>keep' in again.text()


def test_a_second_widget_does_not_overwrite_the_first(shown, photos):
    first, second = (shown(queue=queue(photos, 'red/0.png', 'red/1.png')) for _ in range(2))
    first.click('Exclude')
    second.click('Keep')
    assert first.rows() == [('red/0.png', 'red', 'exclude', '')] and 'decided about elsewhere' in second.text()
    second.click('Keep') # seen now
    assert [r[2] for r in first.rows()] == ['exclude', 'keep']


def test_errors_are_shown(shown, photos, monkeypatch):
    w = shown(queue=queue(photos, 'red/0.png'))
    w.click('Undo')
    assert 'there is nothing to undo here' in w.text()
    w.click('Set class')
    assert 'choose a class' in w.text()
    def full(self, line): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(Corrections, '_write', full)
    w.click('Keep')
    assert 'No space left on device' in w.text() and 'red/0.png' in w.text() and w.one('Label').value == '0 of 1'


def test_markup_in_names_is_text(shown, photos, draw, tmp_path):
    table = label_by_folder(photos)
    table.loc[table.file == photos/'red'/'0.png', 'label'] = '<img src=x onerror=alert(1)>'
    w = shown(table=table, queue=queue(photos, 'red/0.png').assign(reason='<script>'))
    assert '<img' not in w.text() and '<script' not in w.text() and '&lt;img src=x' in w.text()


def test_a_broken_file_is_a_queue_and_can_be_excluded(shown, photos, tmp_path):
    folder = shutil.copytree(photos, tmp_path/'copy')
    (folder/'red'/'9.png').write_text('not an image')
    w = Shown(folder, tmp_path/'c.csv', queue='broken files')
    assert 'problem: <b>' in w.text() and w.one('Image').value == b''
    w.click('Exclude')
    assert w.rows() == [('red/9.png', 'red', 'exclude', '')]


@pytest.mark.parametrize('given, message', [
    ('nothing', "queue='nothing': expected a table, or one of label issues"),
    (pd.DataFrame(dict(name=['a'])), "no column 'file'; there are 'name'"),
    (pd.DataFrame(dict(file=['/elsewhere/a.png'])), '1 of 1 images of the queue are not in the table')])
def test_a_queue_that_is_none_is_refused(shown, given, message):
    with pytest.raises(ValueError, match=message): shown(queue=given)


def test_without_ipywidgets_the_error_says_what_to_install(photos, monkeypatch):
    real = builtins.__import__
    def missing(name, *args, **kwargs):
        if name == 'ipywidgets': raise ImportError(name)
        return real(name, *args, **kwargs)
    monkeypatch.setattr(builtins, '__import__', missing)
    with pytest.raises(ImportError, match='pip install ipywidgets'): review(label_by_folder(photos))


# in the browser

def test_a_click_in_jupyterlab_corrects_a_label(photos, tmp_path, jupyterlab, chromium):
    cells = (f'from pet_classifier.all import label_by_folder, review\ntable = label_by_folder({str(photos)!r})',
             f'review(table, "corrections.csv", {str(photos)!r})')
    with jupyterlab(tmp_path, *cells) as address, chromium() as browser:
        page = browser.new_page(viewport=dict(width=1300, height=1100))
        page.set_default_timeout(240_000)
        page.goto(address)
        page.wait_for_selector('.jp-Notebook-cell')
        page.wait_for_selector('text=Python 3')
        page.click('text=Run >> nth=0')
        page.click('text=Run All Cells')
        page.wait_for_selector('button:has-text("Take suggestion")')
        page.wait_for_function('[...document.querySelectorAll(".jp-OutputArea img")].some(i => i.naturalWidth > 40)')
        assert 'blue/7.png' in page.inner_text('.jp-Notebook')
        page.click('button:has-text("Take suggestion")')
        page.wait_for_function('!document.querySelector(".jp-Notebook").innerText.includes("0 of ")')
    assert [d[:4] for d in Corrections(tmp_path/'corrections.csv', photos).read()] == [('blue/7.png', 'blue', 'relabel', 'red')]
