"The static page answers in the browser as the package does, asks nobody else, and works offline."
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from pet_classifier.data.crops import load_crop
from pet_classifier.deploy import web
from pet_classifier.deploy.onnx import onnx_bytes
from pet_classifier.deploy.predictor import Predictor
from pet_classifier.deploy.web import WithHeatMap, half_size, has_heat_map, runtime_files, write_site
from pet_classifier.model.bundle import load_bundle
from pet_classifier.model.bundle_writer import save_bundle
from pet_classifier.model.gradcam import grad_cam
from pet_classifier.training.learner import pet_learner

HOSTILE = '<img src=x onerror="document.title=1">&"'


def saved(dls, weights, folder, **kwargs):
    learn = pet_learner(dls, 'test_resnet', str(weights), **kwargs)
    torch.manual_seed(0)
    for p in learn.model[1][-1].parameters(): torch.nn.init.normal_(p, std=0.5)
    return load_bundle(save_bundle(learn, folder))


@pytest.mark.slow
@pytest.mark.parametrize('size', [96, (64, 96)])
def test_the_heat_map_is_grad_cams(tiny_table, tiny_weights, tmp_path, size):
    from pet_classifier.data.loaders import loaders
    bundle = saved(loaders(tiny_table, size=size, bs=4), tiny_weights, tmp_path/'model')
    images = torch.stack([load_crop(f, bundle.size) for f in tiny_table.file[:6]])
    mean, std = (255*torch.tensor(v).view(3, 1, 1) for v in (bundle.mean, bundle.std))
    with torch.no_grad():  # so that predictions differ
        bundle.model[1][-1].bias -= bundle.model((images - mean)/std).mean(0)
    with torch.inference_mode(): probabilities, logits, heat = WithHeatMap(bundle).eval()(images)
    assert logits.argmax(1).unique().numel() > 1
    assert torch.allclose(logits, bundle.model((images - mean)/std), atol=1e-4)
    assert torch.allclose(heat, grad_cam(bundle.model, (images - mean)/std, logits.argmax(1)), atol=1e-4)
    outputs = onnxruntime.InferenceSession(half_size(onnx_bytes(bundle, WithHeatMap))).run(None, {'images': images.numpy()})
    for got, expected, most in zip(outputs, (probabilities, logits, heat), (0.02, 0.05, 0.05)):
        assert abs(got - expected.numpy()).max() < most


def test_only_a_linear_head_on_feature_maps_has_one(tiny_dls, tiny_weights, tmp_path):
    assert has_heat_map(saved(tiny_dls, tiny_weights, tmp_path/'linear'))
    assert not has_heat_map(saved(tiny_dls, tiny_weights, tmp_path/'fastai', head='fastai'))


@pytest.mark.parametrize('npm, message', [
    (None, 'npm, which fetches onnxruntime-web@.* is not installed'),
    ('echo no such host >&2; exit 1', r'npm pack onnxruntime-web@.* failed \(no such host\)'),
    ('echo other > x.tgz', 'is not the package onnxruntime-web@.*: its hash differs')])
def test_without_the_runtime_the_way_out_is_said(bundle, tmp_path, monkeypatch, fresh_cache, npm, message):
    if npm: (tmp_path/'npm').write_text(f'#!/bin/sh\n{npm}\n')
    if npm: (tmp_path/'npm').chmod(0o755)
    monkeypatch.setattr(web, 'which', lambda name: npm and str(tmp_path/'npm'))
    with pytest.raises(ValueError, match=message) as e: write_site(bundle, tmp_path/'site')
    assert 'npm pack onnxruntime-web@' in str(e.value)
    assert not (tmp_path/'site').exists()


def test_a_folder_of_something_else_is_left_alone(bundle, tmp_path):
    (tmp_path/'thesis.txt').write_text('mine')
    with pytest.raises(FileExistsError, match=r'is not such a page \(thesis.txt\)'): write_site(bundle, tmp_path)
    assert (tmp_path/'thesis.txt').read_text() == 'mine'


@pytest.fixture(scope='module')
def loaded(bundle):
    loaded = load_bundle(bundle)
    return replace(loaded, vocab=[HOSTILE, *loaded.vocab[1:]])


@pytest.fixture(scope='module')
def site(loaded, tmp_path_factory):
    try: runtime_files()
    except ValueError as e: pytest.skip(f'no runtime for browsers: {e}')
    return write_site(loaded, tmp_path_factory.mktemp('web')/'site', title=HOSTILE)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_): pass


@pytest.fixture
def server(site):
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=site))
    Thread(target=server.serve_forever, daemon=True).start()
    server.stop = lambda: (server.shutdown(), server.server_close())
    yield server
    server.stop()


@pytest.fixture(scope='module')
def browser(chromium):
    with chromium('--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream') as browser: yield browser


@pytest.fixture
def page(server, browser):
    "The page, ready to classify; `page.asked` are the addresses asked, `page.logged` what the browser complained about"
    with browser.new_context(viewport=dict(width=390, height=844)) as context:  # with caches of its own
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.asked, page.logged = [], []
        context.on('request', lambda r: page.asked.append(r.url))
        page.on('console', lambda m: page.logged.append(m.text))
        page.on('pageerror', lambda e: page.logged.append(str(e)))
        page.goto(f'http://127.0.0.1:{server.server_port}/')
        page.wait_for_selector('body[data-ready]')
        yield page


def drop(page, file):
    "What the page says about `file`: title and sentence"
    page.evaluate('answer.replaceChildren()')
    page.set_input_files('#drop input', file)
    page.wait_for_selector('.says h2')
    return page.inner_text('.says h2'), page.inner_text('.says p')


def probabilities(page, file):
    page.evaluate("window.chosen ||= Object.assign(document.createElement('input'), {type: 'file', id: 'chosen'})")
    page.evaluate('document.body.append(chosen)')
    page.set_input_files('#chosen', file)
    return np.array(page.evaluate('classify(chosen.files[0]).then(answer => [...answer.probabilities])'))


@pytest.fixture(scope='module')
def photos(tiny_folder, tmp_path_factory):
    "An image as it is, turned by EXIF, 12 megapixels large, and with transparent pixels"
    folder, im = tmp_path_factory.mktemp('photos'), Image.open(tiny_folder/'red_0.jpg')
    im.save(folder/'plain.png')
    wide = Image.open(tiny_folder/'blue_1.jpg').resize((4000, 3000), Image.Resampling.BICUBIC)
    wide.save(folder/'large.jpg', quality=95)
    exif = Image.Exif()
    exif[0x0112] = 6
    half = wide.resize((400, 300))
    half.paste((255, 255, 0), (0, 0, 200, 300))
    half.save(folder/'turned.jpg', quality=95, exif=exif)
    clear = im.convert('RGBA')
    clear.putalpha(Image.linear_gradient('L').resize(im.size))
    clear.save(folder/'transparent.png')
    return folder


@pytest.mark.slow
def test_it_answers_as_the_package_does_whatever_the_file(page, loaded, photos):
    predictor = Predictor(loaded, 'torch', 'fp32')
    for file in sorted(photos.iterdir()):
        expected = predictor.predict(file)
        assert abs(probabilities(page, file) - [expected.probs[v] for v in loaded.vocab]).max() < 0.02, file.name
        title, text = drop(page, file)
        assert (title, text) == (expected.label, f'with a probability of {expected.probability:.0%}')
    assert page.locator('.looked canvas').evaluate_all('all => all.map(c => [c.width, c.height])') == [[32, 32]]*2
    assert page.locator('.looked figcaption').all_inner_texts() == ['network input', 'heat map']


@pytest.mark.slow
def test_nobody_else_is_asked_and_names_are_texts(page, server, photos):
    drop(page, photos/'plain.png')
    assert {url.split('/')[2] for url in page.asked if not url.startswith('blob:')} == {f'127.0.0.1:{server.server_port}'}
    assert page.title() == HOSTILE == page.inner_text('h1')
    assert HOSTILE in page.locator('.bars span').all_inner_texts() and page.locator('img').count() == 1
    assert page.logged == []
    assert page.evaluate('document.documentElement.scrollWidth') <= 390
    other = ThreadingHTTPServer(('127.0.0.1', 0), Quiet)  # not serving: a connection to it waits
    sent = f"fetch('http://127.0.0.1:{other.server_port}/', {{mode: 'no-cors', signal: AbortSignal.timeout(3000)}})"
    assert page.evaluate(f"{sent}.then(() => 'sent', e => e.name)") == 'TypeError'  # refused at once; else 'TimeoutError'
    other.server_close()


@pytest.mark.slow
@pytest.mark.parametrize('data', [b'To whom it may concern', b'\xff\xd8\xff\xe0 cut off', b''])
def test_what_is_no_image_gets_its_reason_and_the_next_one_an_answer(page, photos, tmp_path, data):
    (tmp_path/'a.jpg').write_bytes(data)
    assert drop(page, tmp_path/'a.jpg') == ('No answer', 'This browser cannot read the file as an image.')
    assert drop(page, photos/'plain.png')[0] != 'No answer'


@pytest.mark.slow
def test_after_the_first_visit_it_works_offline_with_several_threads(page, server, photos):
    first = drop(page, photos/'plain.png')
    assert page.evaluate('crossOriginIsolated') and page.get_attribute('body', 'data-ready') == 'threads'
    server.stop()
    page.reload()
    page.wait_for_selector('body[data-ready]')
    assert drop(page, photos/'plain.png') == first


@pytest.mark.slow
def test_the_camera_is_classified_live_and_can_be_stopped(page):
    page.click('#live')
    page.wait_for_selector('.says.known, .says.none')
    assert page.locator('#video').is_visible() and page.inner_text('#live') == 'Stop the camera'
    page.click('#live')
    assert not page.locator('#video').is_visible() and page.evaluate('stream') is None


@pytest.mark.slow
def test_a_new_bundle_in_the_same_place_replaces_the_cached_one(page, server, site, loaded, photos):
    drop(page, photos/'plain.png')
    write_site(replace(loaded, vocab=['cat', 'dog', 'fox']), site)
    for _ in range(20):  # the browser looks for a new service worker in the background
        page.evaluate('navigator.serviceWorker.getRegistration().then(r => r.update())')
        page.wait_for_timeout(500)
        page.reload()
        page.wait_for_selector('body[data-ready]')
        if 'cat' in (classes := page.evaluate('config.classes')): break
    assert classes == ['cat', 'dog', 'fox'] and len(page.evaluate('caches.keys()')) == 1


def test_the_command_writes_it_and_says_how_to_see_it(site, bundle, tmp_path, capsys):
    from pet_classifier.cli import main
    assert main(['web', str(bundle), '--out', str(tmp_path/'site')]) == 0
    assert f'python -m http.server -d {tmp_path}/site' in capsys.readouterr().out
    assert sorted(f.name for f in Path(tmp_path/'site').iterdir()) == sorted(f.name for f in site.iterdir())
