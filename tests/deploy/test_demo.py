"The page in a real browser and under attack: what it shows, what it refuses, and that it asks nobody else."
import http.client
import json
import os
import shutil
import socket
import struct
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlparse

import pytest

from pet_classifier.data.crops import load_crop
from pet_classifier.data.images import ImageProblem, list_images
from pet_classifier.deploy import demo, space
from pet_classifier.deploy import server as server_module
from pet_classifier.deploy.demo import demo_app, limitations, page_answer, serve
from pet_classifier.deploy.predictor import Predictor
from pet_classifier.deploy.space import write_space
from pet_classifier.model.bundle import load_bundle

pytestmark = pytest.mark.slow

pytest.importorskip('starlette')
pytest.importorskip('uvicorn')
REACHED = []  # (host, port) that this process has asked for
WRITTEN = []  # files that it has opened to write


def free_port():
    with socket.create_server(('127.0.0.1', 0)) as s: return s.getsockname()[1]


def watch(event, args):
    if event == 'open' and (args[2] or 0) & (os.O_WRONLY | os.O_RDWR): WRITTEN.append(args[0])
    if event == 'socket.getaddrinfo': REACHED.append(args[:2])
    if event == 'socket.connect' and isinstance(args[1], tuple): REACHED.append(args[1][:2])


sys.addaudithook(watch)


@contextmanager
def serving(bundle, **kwargs):
    server = serve(bundle, free_port(), wait=False, **kwargs)
    try: yield server.url
    finally: server.close()


def post(url, data, path='/predict', **headers):
    "Status and JSON of the answer for the bytes `data`"
    line = http.client.HTTPConnection(urlparse(url).netloc, timeout=60)
    line.request('POST', path, data, headers)
    got = line.getresponse()
    return got.status, json.loads(got.read())


def raw(url, request, wait=60):
    "What the server says to the bytes `request`: its status, 0 if it says nothing; and all of it"
    host, port = urlparse(url).hostname, urlparse(url).port
    got = b''
    with socket.create_connection((host, port), timeout=wait) as line:
        try:
            line.sendall(request.replace(b'HOST', f'{host}:{port}'.encode()))
            while piece := line.recv(65536): got += piece
        except OSError: pass  # it hung up, or says nothing
    return int(got[9:12]) if got.startswith(b'HTTP/1.1 ') else 0, got


@pytest.fixture(scope='module')
def model(tiny_run): return tiny_run.out/'model'


@pytest.fixture(scope='module')
def predictor(model): return Predictor(model)


@pytest.fixture(scope='module')
def files(tiny_folder, tmp_path_factory):
    "An image, a text, an image that claims 30,000 x 30,000 pixels, and one of 100 kB"
    folder = tmp_path_factory.mktemp('dropped')
    def chunk(kind, data): return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    bomb = chunk(b'IHDR', struct.pack('>IIBBBBB', 30_000, 30_000, 8, 0, 0, 0, 0)) + chunk(b'IDAT', zlib.compress(bytes(99)))
    (folder/'bomb.png').write_bytes(b'\x89PNG\r\n\x1a\n' + bomb + chunk(b'IEND', b''))
    (folder/'text.jpg').write_text('To whom it may concern')
    (folder/'large.jpg').write_bytes((tiny_folder/'red_0.jpg').read_bytes() + bytes(100_000))
    shutil.copy(tiny_folder/'red_0.jpg', folder/'image.jpg')
    return {f.stem: f for f in folder.iterdir()}


@pytest.fixture(scope='module')
def served(model, tiny_folder):
    "The address of a page that takes 50 kB at most and has one example"
    with serving(model, examples=[tiny_folder/'blue_0.jpg'], max_mb=0.05) as url: yield url


class Here:
    "As a `Sandbox`, but in this process: starting one takes seconds"
    def __init__(self, size): self.size = size
    def __call__(self, data): return load_crop(data, self.size)
    def __enter__(self): return self
    def __exit__(self, *_): pass


@pytest.fixture(autouse=True)
def quick(monkeypatch): monkeypatch.setattr(demo, 'Sandbox', Here)  # but for `served`, which stands before


@pytest.fixture(scope='module')
def browser(chromium):
    with chromium() as browser: yield browser


@contextmanager
def opened(browser, url):
    "The page, just opened; `page.asked` are the addresses that it asked"
    page = browser.new_page(viewport=dict(width=1200, height=900))
    page.set_default_timeout(120_000)
    page.asked = []
    page.on('request', lambda r: page.asked.append(r.url))
    page.goto(url)
    yield page
    page.close()


@pytest.fixture
def page(browser, served):
    with opened(browser, served) as page: yield page


def drop(page, file):
    "What the page says about `file`: title and sentence"
    page.evaluate('answer.replaceChildren()')
    page.set_input_files('#drop input', file)
    page.wait_for_selector('.says h2')
    return page.inner_text('.says h2'), page.inner_text('.says p')


def test_an_image_gets_the_answer_and_where_the_network_looked(page, files, predictor):
    guess = predictor.predict(files['image'])
    assert drop(page, files['image']) == (guess.label, f'with a probability of {guess.probability:.0%}')
    assert page.locator('.looked img').evaluate_all('all => all.map(i => i.naturalWidth)') == [32, 32]
    assert page.locator('.looked figcaption').all_inner_texts() == ['network input', 'heat map']
    bars = page.inner_text('#bars')
    assert all(name in bars and f'{p:.0%}' in bars for name, p in guess.probs.items())


@pytest.mark.parametrize('name, reason', [('text', 'not a'), ('bomb', 'too large: ')])
def test_what_is_no_image_gets_its_reason_and_the_next_one_an_answer(page, files, name, reason):
    drop(page, files['image'])
    for _ in range(2):
        title, text = drop(page, files[name])
        assert title == 'No answer' and text.startswith(f'This file cannot be used: {reason}')
        assert page.locator('#bars').count() == 0
    drop(page, files['image'])
    assert page.locator('.says.known, .says.none').count() == 1


def test_a_file_that_is_too_large_is_refused_with_the_limit(page, files, served):
    assert drop(page, files['large']) == ('No answer', 'This file is larger than 0.05 MB.')
    status, said = post(served, files['large'].read_bytes())
    assert (status, said) == (413, dict(problem='the file is larger than 0.05 MB'))


def test_nothing_leaves_this_machine(browser, files, model, tiny_folder):
    REACHED.clear()
    with serving(model, examples=[tiny_folder/'blue_0.jpg']) as url, opened(browser, url) as page:
        drop(page, files['image'])
        page.click('.examples button')
        page.wait_for_load_state('networkidle')
        hosts = {urlparse(u).netloc for u in page.asked if u[:5] not in ('data:', 'blob:')}
        assert len(page.asked) > 2 and hosts == {urlparse(url).netloc}
        assert page.evaluate('[...document.fonts].length') == 0
    assert {host for host, _ in REACHED} <= {'127.0.0.1', 'localhost', '::1'}


def test_the_browser_runs_nothing_and_asks_nobody_that_the_page_does_not_name(page):
    for where in 'https://example.com', 'http://localhost:9', 'data:text/plain,a':
        with pytest.raises(Exception, match='(?i)failed to fetch|content security policy'): page.evaluate(f"fetch('{where}')")
    page.evaluate("""answer.innerHTML = `<img src=x onerror="ran = 1"><img src=https://example.com/a.png>
        <style>h1 { color: red }</style>`
        answer.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))""")
    page.wait_for_timeout(200)
    assert page.evaluate('window.ran') is None
    assert page.evaluate("getComputedStyle(document.querySelector('h1')).color") != 'rgb(255, 0, 0)'


def test_an_example_is_answered_at_a_click(page, tiny_folder, predictor):
    page.click('.examples button')
    page.wait_for_selector('.says h2')
    guess = predictor.predict(tiny_folder/'blue_0.jpg')
    assert page.inner_text('.says p') == f'with a probability of {guess.probability:.0%}'


def test_it_fits_a_phone(page, files):
    page.set_viewport_size(dict(width=390, height=844))
    def wide(): return page.evaluate('document.documentElement.scrollWidth')
    assert wide() == 390
    drop(page, files['image'])
    assert wide() == 390 and page.locator('.looked img').first.bounding_box()['width'] > 140


def test_fifty_requests_at_once_are_answered_as_the_predictor_does(served, tiny_folder, files, predictor):
    wanted = (list_images(tiny_folder)*3)[:47] + [files['text']]*3
    with ThreadPoolExecutor(50) as pool: answers = list(pool.map(lambda f: post(served, f.read_bytes()), wanted))
    for file, (status, said) in zip(wanted, answers, strict=True):
        if file == files['text']: assert status == 422 and said['probs'] is None and 'not a' in said['html']
        else: assert status == 200 and dict(said['probs']) == pytest.approx(predictor.predict(file).probs, abs=1e-6)


def multipart(name, data=b'', path='/gradio_api/upload'):
    body = b'--B\r\nContent-Disposition: form-data; ' + name + b'\r\n\r\n' + data + b'\r\n--B--\r\n'
    return (b'POST %s HTTP/1.1\r\nHost: HOST\r\nContent-Type: multipart/form-data; boundary=B\r\nContent-Length: %d\r\n\r\n'
            % (path.encode(), len(body)) + body)


def get(path, *headers, method='GET', host='HOST', body=b''):
    lines = [f'{method} {path} HTTP/1.1', f'Host: {host}', *headers]
    return '\r\n'.join(lines).encode('latin-1') + b'\r\n\r\n' + body


CALL = json.dumps(dict(data=[dict(path='/etc/passwd', meta=dict(_type='gradio.FileData'))])).encode()
HOSTILE = {
    'SSRF through file=': get('/gradio_api/file=http://127.0.0.1:9/a.png'),
    'SSRF through proxy=': get('/gradio_api/proxy=http://127.0.0.1:9/a.png'),
    'SSRF as an absolute address': get('http://127.0.0.1:9/a.png'),
    'CONNECT': get('127.0.0.1:9', method='CONNECT'),
    'an absolute path': get('/gradio_api/file=/etc/passwd'),
    '../': get('/../../../../etc/passwd'),
    '../ encoded': get('/%2e%2e/%2e%2e/%2e%2e/etc/passwd'),
    '../ behind static': get('/static/..%2f..%2f..%2fetc/passwd'),
    '// another host': get('//etc/passwd'),
    'a NUL in the path': get('/%00/etc/passwd'),
    'an example that is none': get('/predict?example=../../etc/passwd', 'Content-Length: 0', method='POST'),
    'an example by a huge number': get(f'/predict?example={"9"*9000}', 'Content-Length: 0', method='POST'),
    'a path as the body': get('/predict', 'Content-Length: 11', method='POST', body=b'/etc/passwd'),
    "Gradio's call with a path": get('/gradio_api/call/predict', f'Content-Length: {len(CALL)}', 'Content-Type: application/json',
                                     method='POST', body=CALL),
    'an upload as a form': multipart(b'name="files"; filename="a.jpg"', b'abc'),
    'an upload by a path': multipart(b'name="files"; filename="../../../../tmp/a.jpg"', b'abc', '/predict'),
    'a huge form field': multipart(b'name="x"', bytes(3_000_000), '/predict'),
    'broken multipart': multipart(b'name="x', b'--B--\r\n--B', '/predict'),
    'a body of 2 GB, announced': get('/predict', 'Content-Length: 2000000000', method='POST', body=bytes(1000)),
    'a body without a length': get('/predict', 'Transfer-Encoding: chunked', method='POST',
                                   body=(b'10000\r\n' + bytes(65536) + b'\r\n')*40 + b'0\r\n\r\n'),
    'two lengths': get('/predict', 'Content-Length: 4', 'Content-Length: 5', method='POST', body=b'abcd'),
    'a length that is none': get('/predict', 'Content-Length: -1', method='POST'),
    'GET of what is POST': get('/predict'),
    'POST of what is GET': get('/', 'Content-Length: 0', method='POST'),
    'HEAD of what is POST': get('/predict', method='HEAD'),
    'OPTIONS': get('/predict', 'Origin: https://evil.example', 'Access-Control-Request-Method: POST', method='OPTIONS'),
    'TRACE': get('/', method='TRACE'),
    'DELETE': get('/', method='DELETE'),
    'a websocket': get('/predict', 'Upgrade: websocket', 'Connection: Upgrade', 'Sec-WebSocket-Version: 13',
                       'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=='),
    "Gradio's queue": get('/gradio_api/queue/data?session_hash=a'),
    "Gradio's config": get('/config'),
    'the interface for programs': get('/openapi.json'),
    'another Host': get('/', host='evil.example'),
    'no Host': b'GET / HTTP/1.0\r\n\r\n',
    'a Host that is none': get('/', host='[::1'),
    'another Origin': get('/predict', 'Origin: https://evil.example', 'Content-Length: 3', method='POST', body=b'abc'),
    'the Origin null': get('/predict', 'Origin: null', 'Content-Length: 3', method='POST', body=b'abc'),
    'from the page of another site': get('/predict', 'Sec-Fetch-Site: cross-site', 'Content-Length: 1', method='POST', body=b'a'),
    'a header of 200 kB': get('/', 'X: ' + 'a'*200_000),
    'no HTTP': b'\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03' + b'\r\n\r\n',
}
FINE = {  # and what may be asked
    'the page': get('/'), 'its head': get('/', method='HEAD'),
    'from a link elsewhere': get('/', 'Sec-Fetch-Site: cross-site', 'Sec-Fetch-Mode: navigate'),
}


@pytest.mark.parametrize('name', HOSTILE)
def test_a_hostile_request_is_refused_and_tells_nothing(served, name, capfd):
    status, said = raw(served, HOSTILE[name])
    assert 400 <= status < 500 or status == 0 and len(HOSTILE[name]) > 100_000, said[:200]  # 0: hung up on in mid-sentence
    assert b'root:' not in said and b'Traceback' not in said and len(said) < 2000
    assert capfd.readouterr() == ('', '')


@pytest.mark.parametrize('name', FINE)
def test_what_may_be_asked_is_answered(served, name): assert raw(served, FINE[name])[0] == 200


def test_nothing_answers_but_the_two_routes(model):
    app = demo_app(model)
    assert [(type(r).__name__, r.path, sorted(r.methods)) for r in app.routes] == [
        ('Route', '/', ['GET', 'HEAD']), ('Route', '/predict', ['POST'])]
    assert not app.user_middleware and app.router.default.__name__ == 'not_found'


def test_a_body_is_not_kept_beyond_the_limit(served):
    "300 MB without an end, as a form: the server hangs up long before"
    host, port = urlparse(served).hostname, urlparse(served).port
    sent = 0
    with socket.create_connection((host, port), timeout=20) as line, pytest.raises(OSError):
        line.sendall(b'POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n')
        for _ in range(300):
            line.sendall(b'100000\r\n' + bytes(2**20) + b'\r\n')
            sent += 1
    assert sent < 50


def test_bodies_at_the_same_time_have_a_limit_together(model, files):
    app = demo_app(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, 'BodyLimit', lambda most: server_module.BodyLimit(most, at_once=1))
        server = serve(app, free_port(), wait=False, max_mb=.05)
    url = server.url
    try:
        with socket.create_connection((urlparse(url).hostname, urlparse(url).port)) as line:
            line.sendall(b'POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 52000\r\n\r\n' + bytes(51999))
            while not app.state.limit.held: time.sleep(.01)
            assert post(url, files['image'].read_bytes())[0] == 503
        while app.state.limit.held: time.sleep(.01)
        assert post(url, files['image'].read_bytes())[0] == 200
    finally: server.close()


def test_an_error_inside_is_one_line_and_the_next_one_is_answered(model, files, capfd, monkeypatch):
    with serving(model) as url:
        def broken(*_): raise RuntimeError('out of\nluck \x1b[31m')
        with monkeypatch.context() as patch:
            patch.setattr(demo, 'page_answer', broken)
            capfd.readouterr()
            status, said = raw(url, get('/predict', f'Content-Length: {files["image"].stat().st_size}', method='POST',
                                        body=files['image'].read_bytes()))
        assert status == 500 and b'luck' not in said
        assert capfd.readouterr().err == "error: request failed: RuntimeError: 'out of\\nluck \\x1b[31m'\n"
        assert post(url, files['image'].read_bytes())[0] == 200


def test_a_host_is_open_to_others_only_when_asked_and_it_is_said(model, capsys):
    with serving(model) as url: assert raw(url, get('/', host='evil.example'))[0] == 403
    assert 'Everyone' not in capsys.readouterr().out
    with serving(model, host='0.0.0.0') as url:  # noqa: S104
        assert raw(url.replace('0.0.0.0', '127.0.0.1'), get('/', host='page.example'))[0] == 200  # noqa: S104
    assert 'Everyone who can reach this machine' in capsys.readouterr().out


def test_no_photo_is_written_to_a_disk(served, files):
    "Neither one that is answered, nor one that is broken, nor one that breaks off"
    WRITTEN.clear()
    assert post(served, files['image'].read_bytes())[0] == 200 and post(served, files['text'].read_bytes())[0] == 422
    raw(served, multipart(b'name="files"; filename="a.jpg"', bytes(30_000), '/predict')[:20_000], wait=.5)
    assert WRITTEN == []


def test_none_of_these_and_names_that_look_like_html(predictor, files):
    bundle = replace(predictor.bundle, none_below=1e6, vocab=['<b>a_b', '<i>c', 'a&b'])
    said, probs = page_answer(Predictor(bundle), files['image'])
    assert '<h2>None of these</h2>' in said and 'best guess is &lt;' in said.replace('a&amp;b', '&lt;')
    assert '<b>' not in said and '<i>' not in said and set(probs) == {'<b>a b', '<i>c', 'a&b'}


def test_names_of_classes_do_nothing_in_the_page(browser, predictor, files):
    names = ['<script>document.title = "hacked"</script>', '$x$ \x1b[31m{{ title }}', '"><img src=x onerror=alert(1)>']
    with serving(Predictor(replace(predictor.bundle, vocab=names))) as url, opened(browser, url) as page:
        page.on('dialog', lambda d: pytest.fail('a name ran'))
        title, _ = drop(page, files['image'])
        assert page.title() == 'What is on this photo?' and page.locator('img[src=x]').count() == 0
        assert names[0] in page.inner_text('#bars') and names[2] in page.text_content('details')
        assert title.replace('�', '\x1b') in names


def test_limitations_are_those_of_the_bundle(model, tiny_run):
    m = tiny_run.metrics
    said = limitations(load_bundle(model))
    for key in 'error_rate', 'error_low', 'error_high': assert f'{m[key]:.1%}' in said
    assert f'{m["valid"]} images' in said and 'drawn' not in said


def test_what_cannot_be_done_is_said(model, files, monkeypatch):
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f'on port {port} of 127.0.0.1: .*; choose another port, such as {port+1}'):
            serve(model, port)
    with pytest.raises(ValueError, match='port=0: expected 1 to 65535'): serve(model, 0)
    with pytest.raises(ImageProblem, match='text.jpg: not a'): demo_app(model, examples=[files['text']])
    with pytest.raises(FileNotFoundError, match='is not a bundle'): demo_app(files['text'].parent)
    monkeypatch.setattr(server_module, 'find_spec', lambda name: None)
    for does in lambda: serve(model), lambda: demo_app(model):
        with pytest.raises(ValueError, match=r"starlette, uvicorn not installed; pip install 'pet-classifier\[demo\]'"): does()


def test_a_space_is_written_whole_or_not_at_all(model, tmp_path, monkeypatch):
    folder = write_space(model, tmp_path/'space')
    text, docker = (folder/'README.md').read_text(), (folder/'Dockerfile').read_text()
    assert text.startswith('---\ntitle: ') and 'sdk: docker\napp_port: 7860\n' in text
    assert limitations(load_bundle(folder/'model'))[:20] in text and '"pet-classifier", "demo", "model"' in docker
    (tmp_path/'mine').mkdir()
    (tmp_path/'mine'/'letter.txt').touch()
    with pytest.raises(FileExistsError, match='is not a Space'): write_space(model, tmp_path/'mine')
    before = {f: f.read_bytes() for f in folder.rglob('*') if f.is_file()}
    def full(*_): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(space.shutil, 'copyfile', full)
    for where in folder, tmp_path/'new':
        with pytest.raises(OSError, match='cannot write'): write_space(model, where)
    assert {f: f.read_bytes() for f in folder.rglob('*') if f.is_file()} == before
    assert sorted(f.name for f in tmp_path.iterdir()) == ['mine', 'space'] and Path(folder, 'model').is_dir()


def test_a_space_of_gradios_time_is_replaced_by_a_new_one(model, tmp_path):
    folder = write_space(model, tmp_path/'space')
    (folder/'Dockerfile').unlink()
    (folder/'app.py').touch()
    assert (write_space(model, folder)/'Dockerfile').is_file() and not (folder/'app.py').exists()
