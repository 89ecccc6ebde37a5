"A push sends three files that were checked, in one commit, to a repository as private as was asked for; or it sends nothing."
import base64
import json
import re
import shutil
import traceback
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi, ModelCard, constants

from pet_classifier.deploy.hub import check_repo, push_to_hub
from pet_classifier.model.bundle import check_config
from pet_classifier.model.bundle_writer import model_card, save_bundle

OLD = Path(__file__).parents[1]/'fixtures'/'bundle_format_3'


@pytest.fixture
def bundle(learner, tmp_path): return save_bundle(learner(), tmp_path/'model')


@pytest.fixture
def logged_in(monkeypatch, tmp_path):
    "A made-up token, and no other"
    monkeypatch.setattr(constants, 'HF_TOKEN_PATH', str(tmp_path/'no token'))
    for name in 'HF_HUB_OFFLINE', 'HUGGING_FACE_HUB_TOKEN', 'HF_OIDC_RESOURCE': monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    monkeypatch.setenv('HF_TOKEN', 'hf_made_up')


@pytest.fixture
def hub(logged_in):
    "A Hub on this machine: what it is asked is noted, `private` and `status` say how it answers"
    hub = SimpleNamespace(asked=[], tokens=set(), private=True, status={}, lines=[], made={}, raw={},
                          kind='application/json', headers={})

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers['Content-Length']))
            call = self.path.split('/')[-1] if 'validate-yaml' in self.path or 'create' in self.path else self.path.split('/')[-2]
            page = f'{hub.endpoint}/ada/pets'
            if call == 'create': hub.made = json.loads(body)
            if call == 'commit': hub.lines = [json.loads(line) for line in body.splitlines()]
            self.reply(call, {
                'create': lambda: dict(url=page, id='1'), 'validate-yaml': dict,
                'preupload': lambda: dict(files=[dict(path=f['path'], uploadMode='regular', shouldIgnore=False)
                                                 for f in json.loads(body)['files']]),
                'commit': lambda: dict(commitUrl=f'{page}/commit/1', commitOid='1', success=True)}[call]())

        def do_GET(self): self.reply('info', dict(id='ada/pets', private=hub.private))

        def reply(self, call, answer):
            hub.asked.append(call)
            hub.tokens.add(self.headers['Authorization'])
            self.send_response(hub.status.get(call, 200))
            for name, value in {'Content-Type': hub.kind, **hub.headers}.items(): self.send_header(name, value)
            self.end_headers()
            self.wfile.write(hub.raw[call].encode() if call in hub.raw else json.dumps(answer).encode())

        def log_message(self, *args): "Say nothing"

    server = ThreadingHTTPServer(('127.0.0.1', 0), Answers)
    hub.endpoint, hub.stop = f'http://127.0.0.1:{server.server_port}', server.server_close
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()


def sent(hub): return {line['value']['path']: base64.b64decode(line['value']['content']) for line in hub.lines[1:]}


def test_exactly_the_three_files_go_in_one_commit(bundle, hub):
    (bundle/'notes.txt').write_text('not for others')
    (bundle/'more').mkdir()
    (bundle/'more'/'config.json').write_text('{}')
    assert push_to_hub(bundle, 'ada/pets', endpoint=hub.endpoint) == f'{hub.endpoint}/ada/pets'
    assert sent(hub) == {n: (bundle/n).read_bytes() for n in ('model.safetensors', 'config.json', 'README.md')}
    assert hub.asked.count('commit') == 1 and 'test_resnet for 3 classes at 32 px' in hub.lines[0]['value']['summary']


def test_only_the_token_of_huggingface_hub_is_sent(bundle, hub):
    push_to_hub(bundle, 'ada/pets', endpoint=hub.endpoint)
    assert hub.tokens == {'Bearer hf_made_up'}


@pytest.mark.parametrize('private, visibility', [(True, 'private'), (False, 'public')])
def test_it_is_private_unless_told_otherwise(bundle, hub, private, visibility):
    hub.private = private
    push_to_hub(bundle, 'ada/pets', private=private, endpoint=hub.endpoint)
    assert hub.made['visibility'] == visibility and hub.made['name'] == 'pets' and hub.made['organization'] == 'ada'
    hub.made, hub.private = {}, True
    push_to_hub(bundle, 'ada/pets', endpoint=hub.endpoint)
    assert hub.made['visibility'] == 'private'


def test_a_private_repository_does_not_become_public_by_a_push(bundle, hub):
    with pytest.raises(ValueError, match="'ada/pets' exists and is private; push to a new name, or make it public on"):
        push_to_hub(bundle, 'ada/pets', private=False, endpoint=hub.endpoint)
    assert 'commit' not in hub.asked


def test_an_upload_that_breaks_off_is_said(bundle, hub, monkeypatch):
    def broken(*args, **kwargs): raise RuntimeError("Error while uploading 'model.safetensors' to the Hub.")
    monkeypatch.setattr(HfApi, 'create_commit', broken)
    with pytest.raises(ConnectionError, match="the upload was interrupted .*model.safetensors.*; call it again"):
        push_to_hub(bundle, 'ada/pets', endpoint=hub.endpoint)


def test_a_public_repository_is_not_taken_for_a_private_one(bundle, hub):
    hub.private = False
    with pytest.raises(ValueError, match="'ada/pets' exists and is public.*--public"):
        push_to_hub(bundle, 'ada/pets', endpoint=hub.endpoint)
    assert 'commit' not in hub.asked and 'preupload' not in hub.asked


def spoilt_weights(bundle):
    data = bytearray((bundle/'model.safetensors').read_bytes())
    data[-1] ^= 1
    (bundle/'model.safetensors').write_bytes(data)
def spoilt_config(bundle): (bundle/'config.json').write_text('{}')
def no_card(bundle): (bundle/'README.md').unlink()
def no_weights(bundle): (bundle/'model.safetensors').unlink()


@pytest.mark.parametrize('spoil, said', [(spoilt_weights, 'its hash differs'), (spoilt_config, 'config.json'),
                                         (no_card, 'has no README.md'), (no_weights, 'is not a bundle')])
def test_of_a_broken_bundle_nothing_is_sent(bundle, hub, spoil, said):
    spoil(bundle)
    with pytest.raises((ValueError, OSError), match=said): push_to_hub(bundle, 'ada/pets', endpoint=hub.endpoint)
    assert hub.asked == []


@pytest.mark.parametrize('name', ['pets', 'ada/my pets', 'ada/pets/1', '', 'ada/..', 'ada/pets.git', '/pets', 'ada/' + 100*'x',
                                  '../../etc', 'https://huggingface.co/ada/pets'])
def test_a_bad_name_is_refused_before_anything_else(bundle, hub, name):
    with pytest.raises(ValueError, match='xpected OWNER/NAME, such as ada/pets'): push_to_hub(bundle, name, endpoint=hub.endpoint)
    assert hub.asked == [] and check_repo('ada/pets-37.v2') == 'ada/pets-37.v2'


def test_offline_is_said(bundle, hub, monkeypatch):
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    with pytest.raises(ConnectionError, match='HF_HUB_OFFLINE is set.*unset it'):
        push_to_hub(bundle, 'ada/pets', endpoint=hub.endpoint)
    assert hub.asked == []


def test_no_token_is_said(bundle, hub, monkeypatch):
    monkeypatch.delenv('HF_TOKEN')
    with pytest.raises(ValueError, match='no Hugging Face token found; log in with `hf auth login`'):
        push_to_hub(bundle, 'ada/pets', endpoint=hub.endpoint)
    assert hub.asked == []


@pytest.mark.parametrize('call, status, said', [
    ('create', 401, 'hf auth login` replaces it'), ('create', 403, "may not write to 'ada/pets'"),
    ('commit', 403, "may not write to 'ada/pets'"), ('create', 400, 'refused .ada/pets. .400')])
def test_what_the_hub_refuses_is_said_with_the_way_out(bundle, hub, call, status, said):
    hub.status |= {call: status, 'info': 404 if call == 'create' else 200}  # with 404, there is no such repository yet
    with pytest.raises(OSError, match=said): push_to_hub(bundle, 'ada/pets', endpoint=hub.endpoint)
    assert not (call == 'create' and 'commit' in hub.asked)


PAGE = '<!doctype html>\n<html>\n<head><title>Bad\x1b[31m gateway</title></head>\n' + '<p>sorry</p>\n'*500
ECHOES = ['hf_made_up', 'HF_MADE_UP', 'hf_' + 'aB3'*12]


def said_by(bundle, hub, capfd):
    "The one line that a push ends with, and nothing else that was printed or warned of"
    with pytest.raises(OSError) as e: push_to_hub(bundle, 'ada/pets', endpoint=hub.endpoint)
    out, err = capfd.readouterr()
    assert not out and not err and len(str(e.value).splitlines()) == 1 and len(str(e.value)) < 400 and '\x1b' not in str(e.value)
    trace = ''.join(traceback.format_exception(e.value))
    assert not any(token in trace for token in ECHOES)
    return str(e.value)


@pytest.mark.parametrize('call', ['create', 'info', 'preupload', 'commit'])
@pytest.mark.parametrize('status, kind, raw, expected', [
    (500, 'text/html', PAGE, '500: '), (502, 'text/plain', PAGE, '502: Bad'), (400, '', PAGE, '400: Bad'),
    *((403, 'application/json', json.dumps(dict(error=f'no: Bearer {t} {t}')), 'no: Bearer .token. .token.') for t in ECHOES),
    (403, 'text/plain', 'x'*5000, 'x{200} ...')])
def test_an_error_of_the_hub_is_one_line_without_a_token(bundle, hub, capfd, call, status, kind, raw, expected, monkeypatch):
    monkeypatch.setattr('time.sleep', lambda seconds: None)  # between huggingface_hub's own attempts
    hub.status, hub.kind, hub.raw = {call: status, **({'info': 404} if call == 'create' else {})}, kind, {call: raw}
    assert re.search(expected, said_by(bundle, hub, capfd))


@pytest.mark.parametrize('call, raw', [
    ('info', '{"private": "no"}'), *((call, raw) for call in ('create', 'info', 'preupload', 'commit')
                                       for raw in ('', '[]', '{}', 'null', '"hf_made_up"', PAGE))])
def test_an_odd_answer_is_one_line(bundle, hub, capfd, call, raw):
    hub.raw = {call: raw}
    assert re.search('unexpected response from the Hub .*is there a proxy', said_by(bundle, hub, capfd))


def test_what_the_hub_says_beside_its_answers_shows_no_token(bundle, hub, capfd):
    hub.headers = {'X-HF-Warning': 'topic; you sent hf_made_up'}
    hub.raw = {'validate-yaml': json.dumps(dict(warnings=[dict(message='hf_made_up')]))}
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        push_to_hub(bundle, 'ada/pets', endpoint=hub.endpoint)
    assert capfd.readouterr() == ('', '')


def test_a_hub_that_does_not_answer_is_said(bundle, logged_in):
    with pytest.raises(ConnectionError, match='could not be reached'): push_to_hub(bundle, 'ada/pets', endpoint='http://127.0.0.1:9')


def test_the_card_is_one_that_the_hub_reads(tmp_path):
    folder = shutil.copytree(OLD, tmp_path/'old')
    config = check_config(folder/'config.json')
    card = ModelCard(model_card(config | dict(vocab=['a: b', '- c', '---'], facts={'x: [y': '{z}\n---\n'})))
    assert card.data.to_dict() == dict(library_name='pet-classifier', pipeline_tag='image-classification',
                                       tags=['image-classification', 'fastai', 'safetensors'])
    assert card.text.lstrip().startswith('# A classifier of 3 classes')
