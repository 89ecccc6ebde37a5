"The widgets of lesson 1: without a browser, and clicked in a real JupyterLab."
import sys
from datetime import datetime
from io import BytesIO

import numpy as np
import pytest

from pet_classifier.data.drawing import draw_pet
from pet_classifier.data.images import ImageProblem, list_images
from pet_classifier.data.labels import label_by_name
from pet_classifier.data.loaders import loaders
from pet_classifier.data.splits import random_split
from pet_classifier.deploy.predictor import Predictor
from pet_classifier.evaluation.interpretation import interpret
from pet_classifier.evaluation.ood import ood_threshold
from pet_classifier.model.bundle_writer import save_bundle
from pet_classifier.playground import (
    answer_figure,
    answer_title,
    breed_strip,
    draw_and_predict,
    pet_between,
    upload_photo,
)
from pet_classifier.training.head import fit_head
from pet_classifier.training.learner import pet_learner

pytestmark = pytest.mark.slow

A, B = 'Bengal', 'Siamese'


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    "A bundle that knows three breeds, trained on eight drawings of each"
    folder = tmp_path_factory.mktemp('playground')
    (folder/'pets').mkdir()
    for breed in (A, B, 'pug'):
        for n in range(8): draw_pet(breed, n).save(folder/'pets'/f'{breed}_{n}.jpg')
    table = random_split(label_by_name(list_images(folder/'pets')), seed=2)
    learn = pet_learner(loaders(table, size=96), 'efficientnet_lite0')
    fit_head(learn)
    return save_bundle(learn, folder/'model', none_below=ood_threshold(interpret(learn).max_logits), data='drawn')


@pytest.fixture(scope='module')
def predictor(model): return Predictor(model)


def jpeg(image):
    image.save(file := BytesIO(), 'JPEG')
    return file.getvalue()


def upload(panel, data):
    "What the panel says when the browser has sent `data`"
    file = dict(name='a.jpg', type='', size=len(data), content=memoryview(data), last_modified=datetime.now())
    panel.children[0].value = (file,)
    return panel.children[1].value


def test_an_uploaded_photo_is_answered(predictor):
    panel = upload_photo(predictor)
    assert panel.children[2].layout.display == 'none'
    assert 'pug' in upload(panel, jpeg(draw_pet('pug', 50)))
    assert bytes(panel.children[2].value).startswith(b'\x89PNG') and panel.children[2].layout.display == ''


def test_a_file_that_is_no_image_is_refused_and_no_old_answer_stays(predictor):
    panel = upload_photo(predictor)
    upload(panel, jpeg(draw_pet('pug', 50)))
    assert 'cannot be used: not an image' in upload(panel, b'To whom it may concern')
    assert panel.children[2].layout.display == 'none'


def test_the_title_says_none_of_these(predictor):
    guess = predictor.predict(draw_pet('pug', 50))
    assert answer_title(guess) == f'pug, {guess.probability:.0%}'
    guess.none_of_these = True
    assert answer_title(guess).startswith('None of these (closest: pug')


def test_the_figure_has_image_heat_map_and_bars(predictor):
    image, heat, bars = answer_figure(predictor, draw_pet('pug', 50)).axes
    assert [t.get_text() for t in bars.get_yticklabels()][-1] == 'pug' and not image.get_title() == heat.get_title()
    with pytest.raises(ImageProblem): answer_figure(predictor, b'no image')


def test_ipywidgets_7_has_a_dictionary_of_files(predictor):
    from pet_classifier.playground import _uploaded
    assert _uploaded({'a.jpg': dict(content=b'ab')}) == _uploaded((dict(content=memoryview(b'ab')),)) == b'ab'
    assert _uploaded({}) is None and _uploaded(()) is None


@pytest.mark.parametrize('trait', ['ears', 'coat', 'pattern'])
def test_each_trait_changes_the_drawing_and_nothing_else_moves(trait):
    pets = [pet_between('Birman', 'Ragdoll' if trait == 'pattern' else B, **{trait: t}, seed=4) for t in (0, .5, 1)]
    assert len({p.tobytes() for p in pets}) == 3 and len({p.size for p in pets}) == 1
    corners = [np.asarray(p)[:40, :40].mean((0, 1)) for p in pets]
    assert np.ptp(corners, 0).max() < 3  # the background is the same, but for the noise of the drawing


def test_a_trait_out_of_range_is_refused():
    with pytest.raises(ValueError, match='coat=1.2: expected a number from 0, which is Bengal, to 1, which is Siamese'):
        pet_between(A, B, coat=1.2)


def test_the_strip_goes_from_one_breed_to_the_other(predictor):
    lines = {line.get_label(): line.get_ydata() for line in breed_strip(predictor, A, B, n=3).axes[-1].lines}
    assert list(lines) == [A, B, 'all others'] and lines[A][0] > lines[A][-1] and lines[B][-1] > lines[B][0]
    with pytest.raises(ValueError, match="'beagle' is not one of the classes of this model"): breed_strip(predictor, A, 'beagle')


def test_a_slider_changes_pet_and_probabilities(predictor):
    panel = draw_and_predict(predictor, A, B)
    *sliders, shown = panel.children[1:]
    before = [w.value for w in shown.children]
    for slider in sliders: slider.value = 1.
    assert all(w.value != old for w, old in zip(shown.children, before))


def test_without_widgets_there_is_a_clear_error(predictor, monkeypatch):
    monkeypatch.setitem(sys.modules, 'ipywidgets', None)
    with pytest.raises(ImportError, match='pip install ipywidgets'): upload_photo(predictor)


@pytest.fixture
def jupyter_page(model, tmp_path, jupyterlab, chromium):
    "JupyterLab with a notebook of three cells: the model, the upload button, the sliders"
    cells = ['from pet_classifier.playground import *\nfrom pet_classifier import Predictor\n'
             f'predictor = Predictor({str(model)!r})', 'upload_photo(predictor)', f'draw_and_predict(predictor, {A!r}, {B!r})']
    with jupyterlab(tmp_path, *cells) as address, chromium() as browser:
        page = browser.new_page(viewport=dict(width=1200, height=1000))
        page.set_default_timeout(240_000)
        page.goto(address)
        yield page


def test_in_jupyterlab_a_photo_is_uploaded_and_a_slider_moved(jupyter_page, tmp_path):
    page = jupyter_page
    page.locator('.jp-Notebook .jp-Cell').first.click()
    page.get_by_role('menuitem', name='Run', exact=True).click()
    page.get_by_text('Run All Cells', exact=True).click()
    draw_pet('pug', 50).save(photo := tmp_path/'pug.jpg')
    button = page.locator('.widget-upload').first
    button.wait_for()
    with page.expect_file_chooser() as chooser: button.click()
    chooser.value.set_files(photo)
    page.get_by_text('pug, ').first.wait_for()
    assert page.locator('.widget-image').first.is_visible()
    shares = page.locator('.widget-html table').last
    shares.wait_for()
    before = shares.inner_text()
    assert A in before and B in before
    handles = page.locator('.widget-slider .noUi-handle')
    assert handles.count() == 3
    for i in range(3):
        handles.nth(i).focus()
        handles.nth(i).press('End')
    page.wait_for_function('old => [...document.querySelectorAll(".widget-html table")].at(-1).innerText != old', arg=before)
    assert page.locator('.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.stderr"]').count() == 0
