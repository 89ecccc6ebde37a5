"The page in a real browser: what it shows for a picture, for what is none, and that it asks nobody else."
import runpy
import shutil
import socket
import struct
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlparse

import pytest

from pet_classifier import demo, space
from pet_classifier.bundle import load_bundle
from pet_classifier.demo import demo_app, limits, page_answer, serve
from pet_classifier.images import ImageProblem, list_images
from pet_classifier.predict import Predictor
from pet_classifier.space import write_space

gradio_client = pytest.importorskip('gradio_client')
REACHED = []  # (host, port) that this process has asked for
FLAGS = ('--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking '
         '--disable-component-update --disable-sync').split()


def free_port():
    with socket.create_server(('127.0.0.1', 0)) as s: return s.getsockname()[1]


def watch(event, args):
    if event == 'socket.getaddrinfo': REACHED.append(args[:2])
    if event == 'socket.connect' and isinstance(args[1], tuple): REACHED.append(args[1][:2])


sys.addaudithook(watch)


@contextmanager
def serving(bundle, **kwargs):
    port = free_port()
    app = serve(bundle, port, wait=False, **kwargs)
    try: yield f'http://127.0.0.1:{port}'
    finally: app.close(verbose=False)


def client(url):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('GRADIO_ANALYTICS_ENABLED', 'False')  # the client's own argument for it is not heeded
        return gradio_client.Client(url, verbose=False, analytics_enabled=False)


@pytest.fixture(scope='module')
def model(tiny_run): return tiny_run.out/'model'


@pytest.fixture(scope='module')
def predictor(model): return Predictor(model)


@pytest.fixture(scope='module')
def files(tiny_folder, tmp_path_factory):
    "A picture, a text, a picture that claims 30,000 x 30,000 pixels, and one of 100 kB"
    folder = tmp_path_factory.mktemp('dropped')
    def chunk(kind, data): return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    bomb = chunk(b'IHDR', struct.pack('>IIBBBBB', 30_000, 30_000, 8, 0, 0, 0, 0)) + chunk(b'IDAT', zlib.compress(bytes(99)))
    (folder/'bomb.png').write_bytes(b'\x89PNG\r\n\x1a\n' + bomb + chunk(b'IEND', b''))
    (folder/'text.jpg').write_text('To whom it may concern')
    (folder/'large.jpg').write_bytes((tiny_folder/'red_0.jpg').read_bytes() + bytes(100_000))
    shutil.copy(tiny_folder/'red_0.jpg', folder/'picture.jpg')
    return {f.stem: f for f in folder.iterdir()}


@pytest.fixture(scope='module')
def served(model, tiny_folder):
    "The address of a page that takes 50 kB at most and has one example"
    with serving(model, examples=[tiny_folder/'blue_0.jpg'], max_mb=0.05) as url: yield url


@pytest.fixture(scope='module')
def browser():
    playwright = pytest.importorskip('playwright.sync_api')
    chromium = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
    if not chromium: pytest.skip('no chromium here: the page is not looked at')
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def opened(browser, url):
    "The page, just opened; `page.asked` are the addresses that it asked"
    page = browser.new_page(viewport=dict(width=1200, height=900))
    page.asked = []
    page.on('request', lambda r: page.asked.append(r.url))
    page.goto(url)
    page.wait_for_selector('input[type=file]', state='attached')
    yield page
    page.close()


@pytest.fixture
def page(browser, served):
    with opened(browser, served) as page: yield page


def drop(page, file):
    "What the page says about `file`: title and sentence"
    page.set_input_files('input[type=file]', file)
    page.wait_for_selector('.says h2')
    return page.inner_text('.says h2'), page.inner_text('.says p')


def test_a_picture_gets_the_answer_and_where_the_network_looked(page, files, predictor):
    guess = predictor.predict(files['picture'])
    assert drop(page, files['picture']) == (guess.label, f'with a probability of {guess.probability:.0%}')
    assert page.locator('.looked img').evaluate_all('all => all.map(i => i.naturalWidth)') == [32, 32]
    assert page.locator('.looked figcaption').all_inner_texts() == ['what it saw', 'where it looked']
    bars = page.inner_text('#bars')
    assert all(name in bars and f'{p:.0%}' in bars for name, p in guess.probs.items())


@pytest.mark.parametrize('name, reason', [('text', 'not a picture (JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF, HEIC)'), ('bomb', 'too large: ')])
def test_what_is_no_picture_gets_its_reason_and_the_next_one_an_answer(page, files, name, reason):
    drop(page, files['picture'])
    page.click('[aria-label="Remove Image"]')
    page.wait_for_selector('.says', state='detached')
    for _ in range(2):
        title, text = drop(page, files[name])
        assert title == 'No answer' and text.startswith(f'This file cannot be used: {reason}')
        page.wait_for_selector('input[type=file]', state='attached')  # free for another one
        assert page.locator('.toast-body').count() == 0 and not page.locator('#bars').is_visible()
    page.set_input_files('input[type=file]', files['picture'])
    page.wait_for_selector('.says.known, .says.none')


def test_a_file_that_is_too_large_is_refused_with_the_limit(page, files):
    page.set_input_files('input[type=file]', files['large'])
    page.wait_for_selector('.toast-body')
    said = page.inner_text('.toast-body')
    assert 'exceed' in said and 'large.jpg' in said and page.locator('.says').count() == 0


def test_the_server_refuses_it_too(served, files):
    import httpx
    with open(files['large'], 'rb') as f: got = httpx.post(f'{served}/gradio_api/upload', files=dict(files=f))
    assert got.status_code == 413 and 'maximum allowed size' in got.text


def test_nothing_leaves_this_machine(browser, files, model, tiny_folder):
    REACHED.clear()
    with serving(model, examples=[tiny_folder/'blue_0.jpg']) as url, opened(browser, url) as page:
        drop(page, files['picture'])
        page.click('.gallery-item')
        page.wait_for_load_state('networkidle')
        hosts = {urlparse(u).netloc for u in page.asked if u[:5] not in ('data:', 'blob:')}
        assert len(page.asked) > 10 and hosts == {urlparse(url).netloc}
        assert page.evaluate('[...document.fonts].length') == 0 and 'googleapis' not in page.content()
    assert len(REACHED) and {host for host, _ in REACHED} <= {'127.0.0.1', 'localhost', '::1'}


def test_an_example_is_answered_at_a_click(page, tiny_folder, predictor):
    page.click('.gallery-item')
    page.wait_for_selector('.says h2')
    guess = predictor.predict(tiny_folder/'blue_0.jpg')
    assert page.inner_text('.says p') == f'with a probability of {guess.probability:.0%}'


def test_it_fits_a_phone(page, files):
    page.set_viewport_size(dict(width=390, height=844))
    def wide(): return page.evaluate('document.documentElement.scrollWidth')
    assert wide() == 390
    drop(page, files['picture'])
    assert wide() == 390 and page.locator('.looked img').first.bounding_box()['width'] > 140


def test_fifty_requests_of_eight_clients_are_answered_as_the_predictor_does(served, tiny_folder, files, predictor):
    wanted = (list_images(tiny_folder)*3)[:47] + [files['text']]*3
    clients = [client(served) for _ in range(8)]
    def ask(i): return clients[i % 8].predict(gradio_client.handle_file(wanted[i]), api_name='/predict')
    with ThreadPoolExecutor(8) as pool: answers = list(pool.map(ask, range(50)))
    for file, (said, probs, _) in zip(wanted, answers, strict=True):
        if file == files['text']: assert not probs and 'not a picture' in said
        else:
            guess = predictor.predict(file)
            assert probs['label'] == guess.label
            assert {c['label']: c['confidence'] for c in probs['confidences']} == pytest.approx(guess.probs, abs=1e-5)


def test_neither_an_address_nor_another_file_of_this_machine_is_opened(served, tiny_folder):
    import httpx
    def refused(given):
        call = f'{served}/gradio_api/call/predict'
        event = httpx.post(call, json=dict(data=[given])).json()['event_id']
        answer = httpx.get(f'{call}/{event}').text
        return answer.startswith('event: error') and 'data:image' not in answer
    meta, local, far = dict(_type='gradio.FileData'), str(tiny_folder/'red_0.jpg'), 'http://127.0.0.1:9/a.jpg'
    for path in local, far, 'https://[::1]/a.jpg': # as a client that plays by the rules gives it, and as others do
        for given in (dict(path=path, meta=meta), dict(path=path), path, [dict(path=path, meta=meta)],
                      dict(a=dict(path=path, meta=meta)), dict(path='a.jpg', meta=meta, more=dict(path=path, meta=meta)),
                      dict(path=path, meta=dict(_type='other')), dict(path=path, url='data:image/png;base64,aaaa', meta=meta)):
            assert refused(given), given
    assert not {('127.0.0.1', 9), ('::1', 443)} & set(REACHED)


def test_what_was_uploaded_is_gone_when_the_page_is_closed(model, files, tmp_path, monkeypatch):
    monkeypatch.setenv('GRADIO_TEMP_DIR', str(tmp_path))
    with serving(model) as url:
        client(url).predict(gradio_client.handle_file(files['picture']), api_name='/predict')
        assert [f.name for f in tmp_path.rglob('*.jpg')] == ['picture.jpg']
    assert not [f for f in tmp_path.rglob('*') if f.is_file()]


def test_none_of_these_and_names_that_look_like_html(predictor, files):
    bundle = replace(predictor.bundle, none_below=1e6, vocab=['<b>a_b', '<i>c', 'a&b'])
    said, probs = page_answer(Predictor(bundle), files['picture'])
    assert '<h2>None of these</h2>' in said and 'best guess is &lt;' in said.replace('a&amp;b', '&lt;')
    assert '<b>' not in said and '<i>' not in said and set(probs) == {'<b>a b', '<i>c', 'a&b'}


def test_limits_are_those_of_the_bundle(model, tiny_run):
    m = tiny_run.metrics
    said = limits(load_bundle(model))
    for key in 'error_rate', 'error_low', 'error_high': assert f'{m[key]:.1%}' in said
    assert f'{m["valid"]} pictures' in said and 'drawn' not in said


def test_what_cannot_be_done_is_said(model, files, monkeypatch):
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f'at port {port} of 127.0.0.1: .*; take another port, such as {port+1}'):
            serve(model, port)
    with pytest.raises(ValueError, match='port=0: expected 1 to 65535'): serve(model, 0)
    with pytest.raises(ImageProblem, match='text.jpg: not a picture'): demo_app(model, examples=[files['text']])
    with pytest.raises(FileNotFoundError, match='is no bundle'): demo_app(files['text'].parent)
    monkeypatch.setattr(demo, 'find_spec', lambda name: None)
    for does in lambda: serve(model), lambda: demo_app(model), lambda: write_space(model, 'space'):
        with pytest.raises(ValueError, match=r"gradio not installed; pip install 'pet-classifier\[demo\]'"): does()


def test_a_space_runs_here_and_is_written_whole_or_not_at_all(model, tmp_path, monkeypatch):
    folder = write_space(model, tmp_path/'space')
    app = runpy.run_path(str(folder/'app.py'))['app']
    assert app.title == 'What is on this photo?' and not app.is_running
    text = (folder/'README.md').read_text()
    assert text.startswith('---\ntitle: ') and 'app_file: app.py\n' in text and limits(load_bundle(folder/'model'))[:20] in text
    (tmp_path/'mine').mkdir()
    (tmp_path/'mine'/'letter.txt').touch()
    with pytest.raises(FileExistsError, match='holds what is no Space'): write_space(model, tmp_path/'mine')
    before = {f: f.read_bytes() for f in folder.rglob('*') if f.is_file()}
    def full(*_): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(space.shutil, 'copyfile', full)
    for where in folder, tmp_path/'new':
        with pytest.raises(OSError, match='cannot write'): write_space(model, where)
    assert {f: f.read_bytes() for f in folder.rglob('*') if f.is_file()} == before
    assert sorted(f.name for f in tmp_path.iterdir()) == ['mine', 'space'] and Path(folder, 'model').is_dir()
