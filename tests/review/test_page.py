"The page under attack, with two clients, and in a real browser that is used by keyboard, mouse and touch."
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import pytest

pytest.importorskip('starlette')
pytest.importorskip('uvicorn')
pytest.importorskip('httpx')
from starlette.testclient import TestClient

from pet_classifier.data.corrections import Corrections
from pet_classifier.deploy.server import Guard
from pet_classifier.review.page import ImageCache, review_app, review_server


@pytest.fixture
def client(session):
    "A client of the application as it is served; `client.session` is behind it"
    client = TestClient(Guard(review_app(behind := session(), 'secret')), base_url='http://127.0.0.1:7861')
    client.session = behind
    return client


def decide(client, row, decision='exclude', label='', seen=0, **headers):
    body = dict(id=row, decision=decision, label=label, seen=seen)
    return client.post('/secret/decide', json=body, headers=headers)


@pytest.mark.parametrize('path', ['', 'state', 'item/0', 'image/0/thumb'])
@pytest.mark.parametrize('token', ['', 'secre', 'secret2', 'SECRET', '%00', 'é'])
def test_nothing_is_answered_without_the_token(client, path, token):
    assert client.get(f'/{token}/{path}').status_code == 404 and client.get(f'/secret/{path}').status_code == 200
    assert decide(client, 0).status_code == 200


def test_no_decision_is_taken_without_the_token(client):
    for path in '/other/decide', '/decide', '/other/retrain':
        assert client.post(path, json=dict(id=0, decision='exclude')).status_code == 404
    assert client.session.version == 0


@pytest.mark.parametrize('headers', [dict(host='evil.example'), dict(host='192.168.1.2:7861'),
                                     dict(origin='https://evil.example'),
                                     dict(origin='null'), {'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'no-cors'}])
def test_other_hosts_and_sites_are_refused(client, headers):
    assert client.get('/secret/state', headers=headers).status_code == 403
    assert decide(client, 0, **headers).status_code == 403 and client.session.version == 0


@pytest.mark.parametrize('path', ['../../../etc/passwd', '..%2F..%2Fetc%2Fpasswd', '%2Fetc%2Fpasswd', '-1', '99', '0.5', '9'*5000,
                                  'red_1.jpg', '%00', '0/huge', '0/thumb/../../x'])
def test_images_have_numbers_not_paths(client, path):
    for url in f'/secret/image/{path}', f'/secret/image/{path}/thumb', f'/secret/item/{path}':
        assert client.get(url).status_code in (404, 405, 500)


@pytest.mark.parametrize('body, status', [('{', 422), ('[]', 422), ('{"id": "0"}', 422), ('{"id": 99, "decision": "keep"}', 404),
                                          ('{"id": true, "decision": "keep"}', 422), ('{"id": 0, "decision": "delete"}', 422),
                                          ('{"id": 0, "decision": "relabel", "label": ["a"]}', 422), ('[' * 9000, 422),
                                          ('{"id": 0, "decision": "keep", "reason": "%s"}' % ('a'*30_000), 413)])
def test_what_is_no_decision_is_refused(client, body, status):
    got = client.post('/secret/decide', content=body, headers={'content-type': 'application/json'})
    assert got.status_code == status and client.session.version == 0


def test_a_form_of_another_site_cannot_decide(client):
    got = client.post('/secret/decide', content='{"id": 0, "decision": "exclude"}', headers={'content-type': 'text/plain'})
    assert got.status_code == 415 and client.session.version == 0


def test_the_page_loads_nothing_from_elsewhere_and_runs_only_its_own_script(client):
    one, other = client.get('/secret/'), client.get('/secret/')
    policy = one.headers['content-security-policy']
    assert "default-src 'none'" in policy and "script-src 'nonce-" in policy and 'unsafe' not in policy
    assert policy != other.headers['content-security-policy'] and one.headers['referrer-policy'] == 'no-referrer'
    assert not re.search(r'https?://|src="(?!data:)|innerHTML|insertAdjacentHTML', one.text)


def test_thumbnails_are_new_jpegs_and_broken_files_have_none(client):
    got = client.get('/secret/image/0/thumb')
    assert got.headers['content-type'] == 'image/jpeg' and got.content[:3] == b'\xff\xd8\xff' and b'Exif' not in got.content
    assert client.get('/secret/image/18/thumb').status_code == 404 and client.get('/secret/item/18').json()['reasons']


def test_few_images_stay_in_memory():
    cache = ImageCache(lambda i: bytes(100), most=250)
    for i in range(50): cache(i % 7)
    assert cache.size == 200 and len(cache.kept) == 2


def test_two_clients_learn_of_each_other(client, row):
    one = decide(client, row('red_1.jpg'), 'keep').json()
    other = decide(client, row('red_2.jpg')).json()  # has seen nothing yet
    assert other['decided'] == {str(row('red_1.jpg')): ['keep', ''], str(row('red_2.jpg')): ['exclude', '']}
    refused = decide(client, row('red_1.jpg'), 'exclude').json()
    assert refused['conflict'] and refused['decided'][str(row('red_1.jpg'))] == ['keep', ''] and client.session.version == 2
    assert decide(client, row('red_1.jpg'), 'undo', seen=one['version']).json()['decided'][str(row('red_1.jpg'))] is None


def test_retraining_says_what_changed(client, row):
    decide(client, row('green_90.jpg'), 'relabel', 'red')
    decide(client, row('red_91.jpg'), 'relabel', 'blue')
    got = client.post('/secret/retrain', json=dict(seen=0, fit=0)).json()
    assert got['result']['changed'] == 2 and got['result']['images'] == 18 and 'before' in got['text'] and got['queues']


def test_a_file_that_cannot_be_written_is_a_problem_not_a_loss(client, row):
    client.session.corrections.path.mkdir()
    got = decide(client, row('red_1.jpg'))
    assert got.status_code in (422, 500) and client.session.corrections.path.is_dir()


@pytest.fixture(scope='module')
def browser(chromium):
    with chromium() as browser: yield browser


def free_port():
    with socket.create_server(('127.0.0.1', 0)) as s: return s.getsockname()[1]


@pytest.fixture
def served(session):
    server, address = review_server(behind := session(), free_port())
    server.start()
    yield address, behind
    server.close()


@contextmanager
def opened_page(browser, address, **kwargs):
    page = browser.new_page(**{'viewport': dict(width=1280, height=900)} | kwargs)
    page.set_default_timeout(120_000)
    page.errors = []
    page.on('pageerror', lambda e: page.errors.append(str(e)))
    page.goto(address)
    page.wait_for_selector('#main[data-ready]')
    page.wait_for_function('() => !busy')  # the search for duplicates orders the images anew
    yield page
    assert not page.errors
    page.close()


def ready(page, name): page.wait_for_function('name => document.getElementById("file").textContent === name', arg=name)


def show(page, row): page.click(f'#film [data-id="{row}"]')


def settled(page, session, n):
    page.wait_for_function('() => !outbox.length && !sending')
    assert session.corrections.read()[n-1:] and len(session.corrections.read()) == n


@pytest.mark.slow
@pytest.mark.parametrize('width', [1280, 390])
def test_the_keyboard_is_enough(browser, served, row, width):
    address, session = served
    with opened_page(browser, address, viewport=dict(width=width, height=844)) as page:
        assert page.evaluate('document.documentElement.scrollWidth') <= width
        show(page, row('green_90.jpg'))
        ready(page, 'green_90.jpg')
        assert page.inner_text('#given') == 'green' and page.inner_text('#predicted') == 'red'
        assert page.locator('.strip').count() == 2 and page.locator('.strip img').count() >= 6
        page.keyboard.press('2')
        page.wait_for_function('() => current !== null && $("file").textContent !== "green_90.jpg"')
        second = page.inner_text('#file')
        page.keyboard.press('/')
        page.keyboard.type('BL')
        page.keyboard.press('Enter')
        settled(page, session, 2)
        rows = session.corrections.read()
        assert [(d.file, d.decision, d.label) for d in rows][0] == ('green_90.jpg', 'relabel', 'red')
        assert rows[1].file == second and (rows[1].label or rows[1].given_label) == 'blue'
        page.keyboard.press('u')
        ready(page, second)
        page.keyboard.press('x')
        settled(page, session, 4)
        assert [d.decision for d in session.corrections.read()[2:]] == ['undo', 'exclude']
        assert page.inner_text('#count').startswith('2 reviewed')


@pytest.mark.slow
def test_a_class_of_its_own_may_be_made_and_names_are_only_text(browser, served, row):
    address, session = served
    with opened_page(browser, address) as page:
        show(page, row('red_91.jpg'))
        ready(page, 'red_91.jpg')
        page.click('#search')
        page.fill('#query', evil := '<img src=x onerror="document.title=1">')
        page.keyboard.press('Enter')
        settled(page, session, 1)
        assert session.corrections.read()[0].label == evil
        show(page, row('red_91.jpg'))
        page.wait_for_selector('#done:visible')
        assert page.inner_text('#done') == f'Labeled {evil}' and page.title() != '1' and not page.query_selector('#done img')


@pytest.mark.slow
def test_touch_and_buttons_do_the_same(browser, served, row):
    address, session = served
    with opened_page(browser, address, viewport=dict(width=390, height=844), has_touch=True, is_mobile=True) as page:
        show(page, row('green_90.jpg'))
        ready(page, 'green_90.jpg')
        for n, button in enumerate(('#take', '.undo', '#keep', '.undo', '#exclude'), 1):
            page.tap(f'{button}:visible:enabled')
            settled(page, session, n)
        assert [d.decision for d in session.corrections.read()] == ['relabel', 'undo', 'keep', 'undo', 'exclude']
        assert {d.file for d in session.corrections.read()} == {'green_90.jpg'}


@pytest.mark.slow
def test_two_tabs_do_not_overwrite_each_other(browser, served, row):
    address, session = served
    with opened_page(browser, address) as one, opened_page(browser, address) as other:
        for page in one, other:
            show(page, row('red_91.jpg'))
            ready(page, 'red_91.jpg')
        one.keyboard.press('2')
        settled(one, session, 1)
        other.keyboard.press('x')
        other.wait_for_selector('#banner:visible')
        assert 'decided about elsewhere' in other.inner_text('#problem') and 'Labeled' in other.inner_text('#done')
        assert [d.decision for d in session.corrections.read()] == ['relabel']


@pytest.mark.slow
def test_a_decision_that_cannot_be_sent_is_shown_and_sent_later(browser, served, row):
    address, session = served
    with opened_page(browser, address) as page:
        page.route('**/decide', lambda route: route.abort())
        page.keyboard.press('x')
        page.wait_for_selector('#banner:visible')
        assert '1 decision not saved yet' in page.inner_text('#problem') and session.version == 0
        page.unroute('**/decide')
        page.click('#retry')
        settled(page, session, 1)
        page.wait_for_selector('#banner', state='hidden')


@pytest.mark.slow
def test_no_decision_is_lost_when_the_server_is_killed(browser, folder, session, tmp_path):
    code, port = 'from pet_classifier.entry import run; run()', str(free_port())
    words = ['review', str(folder), '--corrections', str(tmp_path/'corrections.csv'), '--port', port]
    process = subprocess.Popen([sys.executable, '-c', code, *words], stdout=subprocess.PIPE, text=True, env=os.environ)
    try:
        with opened_page(browser, next(line.strip() for line in process.stdout if line.startswith('http'))) as page:
            page.evaluate("$('tabs').querySelector('[data-queue=\"broken files\"]').click()")
            ready(page, 'red_92.jpg')
            page.keyboard.press('x')
            page.wait_for_function('() => !outbox.length && !sending')
            process.send_signal(signal.SIGKILL)
            process.wait()
    finally: process.kill()
    log = Corrections(tmp_path/'corrections.csv', folder)
    assert [d.decision for d in log.read()] == ['exclude']
    server, address = review_server(session(), free_port())
    server.start()
    try:
        with opened_page(browser, address) as page: assert page.text_content('#count').startswith('1 reviewed')
    finally: server.close()
