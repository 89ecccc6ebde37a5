"No command reaches out of the machine, or opens a port that others can see, but those that are asked to."
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec

import pytest

# What the process under strace does: `main` for each command; `mark` is a system call that tells them apart in the log.
pytestmark = pytest.mark.slow
CODE = '''
import json, os, sys, warnings
warnings.simplefilter('ignore')
from pet_classifier.cli import main
def mark(name):
    try: os.rmdir(f'/mark/{name}')
    except OSError: pass
codes = {}
for name, words in json.loads(sys.argv[1]):
    mark(name)
    codes[name] = main(words)
print(json.dumps(codes), file=sys.stderr)
'''
TINY = ['--arch', 'test_resnet', '--weights', 'none', '--size', '32']
CALL = re.compile(r'(?:connect|bind|sendto)\(.*?sa_family=AF_INET6?,.*?(?:inet_addr\("|inet_pton\(AF_INET6, ")([^"]*)"')
HOME = re.compile(r'127\.|::1$')


def namespace():
    "The words that run a command in a network namespace of its own under strace, or a skip that says what is missing"
    if lost := [tool for tool in ('unshare', 'strace') if not shutil.which(tool)]:
        pytest.skip(f'{" and ".join(lost)} not installed')
    words = ['unshare', '-n'] if os.geteuid() == 0 else ['unshare', '-rn']
    if subprocess.run([*words, 'strace', '-o', os.devnull, 'true'], capture_output=True).returncode:
        pytest.skip('no network namespace can be made here, or strace may not look into it')
    return words


def commands(folder, tmp_path):
    "Each command once, as words of the command line, by its name"
    data, run, model = str(folder), str(tmp_path/'run'), str(tmp_path/'run'/'model')
    photo = str(next(folder.iterdir()))
    made = [('sample', ['sample', str(tmp_path/'sample'), '--per-breed', '1']), ('check', ['check', data, '--quick']),
            ('train', ['train', data, '--out', run, '--epochs', '1', '--head-epochs', '1', *TINY]),
            ('find-lr', ['find-lr', data, *TINY]), ('predict', ['predict', model, photo]),
            ('evaluate', ['evaluate', model, data]), ('report', ['report', run]), ('cache', ['cache']),
            ('demo --space', ['demo', model, '--space', str(tmp_path/'space')]),
            ('push', ['push', model, 'ada/pets'])]
    if find_spec('openvino'): made.append(('predict openvino', ['predict', model, photo, '--engine', 'openvino']))
    if all(map(find_spec, ('onnx', 'onnxscript', 'onnxruntime'))):
        made += [('predict onnx', ['predict', model, photo, '--engine', 'onnx']),
                 ('export', ['export', model, '--onnx', str(tmp_path/'model.onnx')])]
    return [*made, ('scale', ['scale', model, photo, '--out', str(tmp_path/'rows'), '--workers', '1'])]


def reached(log):
    "By command: the addresses it tried to reach or to listen at, from strace's log"
    found, name = {}, 'import'
    for line in log.read_text(errors='replace').splitlines():
        if mark := re.search(r'"/mark/([^"]*)"', line): name = mark[1]
        found.setdefault(name, [])
        if call := CALL.search(line): found[name].append(call[1])
    return found


def environment(tmp_path):
    "As somebody has it who set nothing, with a home of his own; CI is unset, for some telemetry is quiet there"
    kept = 'PATH', 'PYTHONPATH', 'OMP_NUM_THREADS', 'LANG'
    (tmp_path/'home').mkdir()
    return {k: v for k, v in os.environ.items() if k in kept} | dict(
        HOME=str(tmp_path/'home'), TMPDIR=str(tmp_path/'tmp'), PET_CLASSIFIER_CACHE=str(tmp_path/'cache'), HF_HUB_OFFLINE='1')


def test_no_command_reaches_out_or_opens_a_port(tiny_folder, tmp_path):
    words, log, todo = namespace(), tmp_path/'log', commands(tiny_folder, tmp_path)
    (tmp_path/'tmp').mkdir()
    trace = ['strace', '-f', '--seccomp-bpf', '-qq', '-e', 'trace=connect,bind,sendto,rmdir', '-e', 'signal=none', '-o', str(log)]
    done = subprocess.run([*words, *trace, sys.executable, '-c', CODE, json.dumps(todo)], env=environment(tmp_path),
                          capture_output=True, text=True, timeout=600)
    codes = json.loads(done.stderr.splitlines()[-1])
    assert codes == {name: 2 if name == 'push' else 0 for name, _ in todo}, done.stderr
    found = reached(log)
    assert [name for name, _ in todo] == [name for name in found if name != 'import']
    print({name: sorted(set(addresses)) for name, addresses in found.items()})
    assert {name: addresses for name, addresses in found.items() if not all(map(HOME.match, addresses))} == {}
    left = [str(f.relative_to(tmp_path)) for base in ('home', 'tmp') for f in (tmp_path/base).rglob('*') if f.is_file()]
    assert [f for f in left if 'matplotlib' not in f] == []


def test_the_log_is_understood(tmp_path):
    log = tmp_path/'log'
    log.write_text('1 rmdir("/mark/train") = -1 ENOENT\n'
                   '2 connect(5, {sa_family=AF_INET, sin_port=htons(443), sin_addr=inet_addr("142.250.1.1")}, 16) = -1 E\n'
                   '2 connect(5, {sa_family=AF_UNIX, sun_path="/run/x"}, 16) = 0\n'
                   '3 bind(5, {sa_family=AF_INET6, sin6_port=htons(0), sin6_flowinfo=htonl(0), '
                   'inet_pton(AF_INET6, "::", &sin6_addr), sin6_scope_id=0}, 28) = 0\n'
                   '3 sendto(5, "x", 1, 0, {sa_family=AF_INET, sin_port=htons(53), sin_addr=inet_addr("10.0.0.1")}, 16) = 1\n')
    assert reached(log) == dict(train=['142.250.1.1', '::', '10.0.0.1']) and not HOME.match('::') and HOME.match('127.0.0.53')


def told(code, **env):
    "What a fresh process prints that runs `code`"
    kept = {k: v for k, v in os.environ.items() if k not in SWITCHES} | env
    return subprocess.run([sys.executable, '-c', code], env=kept, capture_output=True, text=True, check=True).stdout.split()


SWITCHES = 'HF_HUB_DISABLE_TELEMETRY', 'GRADIO_ANALYTICS_ENABLED', 'ORT_DISABLE_TELEMETRY', 'RAY_USAGE_STATS_ENABLED'


@pytest.mark.parametrize('name', SWITCHES)
def test_what_the_user_set_stays(name):
    code = f'import os, pet_classifier; print(*[os.environ[k] for k in {SWITCHES}])'
    usual = dict(zip(SWITCHES, ('1', 'False', '1', '0')))
    assert told(code, **{name: 'mine'}) == list((usual | {name: 'mine'}).values())


def test_the_package_has_predictor_and_no_other_name():
    from pet_classifier import Predictor
    assert Predictor.__module__ == 'pet_classifier.deploy.predictor'
    with pytest.raises(ImportError, match="cannot import name 'Predicter'"): exec('from pet_classifier import Predicter')  # noqa: S102


def test_openvino_imports_without_its_sender():
    pytest.importorskip('openvino', reason='OpenVINO is not installed')
    code = 'import pet_classifier, openvino, sys; print(*[m for m in sys.modules if m.startswith("openvino_telemetry.")])'
    assert told(code) == []
