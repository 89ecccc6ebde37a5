"Output of the command line: errors of any class, warnings, closed streams, Ctrl-C, control characters in names."
import errno
import os
import signal
import subprocess
import sys
import time
import warnings

import pandas as pd
import pytest

from pet_classifier.cli import main
from pet_classifier.core.console import SafeStream, exit_code, file_to_write, print_table, say, shown_warnings, stage

posix = pytest.mark.skipif(os.name == 'nt', reason='needs a POSIX system')


class Panic(BaseException):
    "Like panics of libraries written in Rust: not an `Exception`"


ERRORS = [
    ValueError('two\nlines'), FileNotFoundError(errno.ENOENT, 'No such file or directory', 'x.jpg'), OSError('no room'),
    KeyError('label'), RuntimeError('of torch:\n  a long\n  story'), AssertionError(), RecursionError('too deep'),
    UnicodeEncodeError('utf-8', 'x\udce9', 1, 2, 'surrogates not allowed'), TypeError('\033[2J'), Panic('in Rust'),
    BrokenPipeError(errno.EPIPE, 'Broken pipe'), ImportError('no module named x'), NotImplementedError(), MemoryError(),
    EOFError(), StopIteration()]


@pytest.mark.parametrize('error', ERRORS, ids=lambda e: type(e).__name__)
def test_any_exception_is_one_line_and_exit_code_2(error, monkeypatch, capsys, tmp_path):
    def fail(*args): raise error
    monkeypatch.setattr('pet_classifier.data.datasets.draw_sample', fail)
    assert main(['sample', str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith('error: ') and err.count('\n') == 1 and err[:-1].isprintable() and len(err) > 12
    assert main(['--debug', 'sample', str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith('Traceback') and 'in fail' in err and err.splitlines()[-1].startswith('error: ')


def test_expected_errors_print_their_message_and_others_their_class(capsys):
    def raises(error):
        def command(): raise error
        return command
    assert exit_code(raises(ValueError('size=3: expected 32'))) == 2 == exit_code(raises(KeyError('label')))
    assert exit_code(raises(PermissionError(13, 'Permission denied', 'a\nb.jpg'))) == 2
    ours, theirs, system = capsys.readouterr().err.splitlines()
    assert ours == 'error: size=3: expected 32'
    assert theirs.startswith("error: KeyError: 'label' (unexpected: ") and '--debug' in theirs
    assert system == "error: 'a\\nb.jpg': Permission denied"


def test_an_interrupt_prints_one_word_and_returns_130(capsys):
    def command(): raise KeyboardInterrupt
    assert exit_code(command) == 130 and capsys.readouterr().err == 'interrupted\n'


def test_version_is_an_option_of_the_root_command(capsys):
    from pet_classifier import __version__
    assert main(['--version']) == 0 and capsys.readouterr().out == f'pet-classifier {__version__}\n'


def program(code, shell='', **kwargs):
    "Start a process that runs `entry.run` with `code` as `main`; `shell` is appended to the command"
    code = ('import sys, types\nfrom pet_classifier import entry\nfrom pet_classifier.core import console\n'
            'cli = sys.modules["pet_classifier.cli"] = types.ModuleType("cli")\n'
            f'def main():\n    {code}\ncli.main = main\nentry.run()')
    heard = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731  a background job ignores it
    return subprocess.Popen(['/bin/sh', '-c', f'exec "$0" -c "$1" {shell}', sys.executable, code], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heard, **kwargs)


@posix
@pytest.mark.parametrize('shell', ['>&-', '2>&-', '<&-', '<&- >&- 2>&-', '>&- 2>&-'])
def test_closed_streams_are_not_an_error(shell, tmp_path):
    code = 'print("x"); print("y", file=sys.stderr); sys.stdout.isatty(); open("done", "w").write("1"); return 1'
    p = program(code, shell, cwd=tmp_path, env=dict(os.environ, PYTHONPATH=os.pathsep.join(map(os.path.abspath, sys.path))))
    out, err = p.communicate(timeout=60)
    assert p.returncode == 1 and 'Traceback' not in out + err and (tmp_path/'done').read_text() == '1'
    assert out == ('' if '>&-' in shell.replace('2>&-', '') else 'x\n') and err == ('' if '2>&-' in shell else 'y\n')


@posix
def test_a_closed_pipe_does_not_end_the_program(tmp_path):
    code = '[print(i, flush=True) for i in range(100000)]; print("message", file=sys.stderr); return 0'
    p = program(code, '| head -1')
    out, err = p.communicate(timeout=60)
    assert (out, err) == ('0\n', 'message\n')


@posix
@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='needs /dev/full')
def test_a_full_disk_behind_standard_output_is_reported_at_the_end(capsys, monkeypatch):
    with open('/dev/full', 'w') as full:
        monkeypatch.setattr(sys, 'stdout', steady := SafeStream(full))
        done = []
        def command():
            for _ in range(3): print('x'*100_000, flush=True)
            done.append(1)
        assert exit_code(command) == 2 and done
        assert steady.error.errno == errno.ENOSPC
    assert capsys.readouterr().err == 'error: standard output is not complete: No space left on device\n'


def closed_pipe():
    "Return a stream whose reader has closed it"
    read, written = os.pipe()
    os.close(read)
    return SafeStream(os.fdopen(written, 'w', encoding='ascii'))


@posix
@pytest.mark.slow
def test_training_continues_when_the_output_pipe_is_closed(tiny_folder, tiny_weights, tmp_path, monkeypatch):
    for stream in 'stdout', 'stderr': monkeypatch.setattr(sys, stream, closed_pipe())
    words = ['--arch', 'test_resnet', '--weights', tiny_weights, '--size', 32, '--head-epochs', 1, '--epochs', 0]
    code = main([str(w) for w in ('train', tiny_folder, '--out', tmp_path/'run', *words)])
    assert code == 0 and (tmp_path/'run'/'model'/'config.json').is_file() and sys.stdout.error is None


@posix
def test_characters_missing_in_the_encoding_are_escaped(tmp_path):
    with open(tmp_path/'out', 'w', encoding='ascii', errors='strict') as f: print('caf\udce9 \u732b', file=SafeStream(f))
    assert (tmp_path/'out').read_text() == 'caf\\udce9 \\u732b\n'


@posix
def test_ctrl_c_while_the_command_line_is_imported(tmp_path):
    (tmp_path/'typer.py').write_text('raise KeyboardInterrupt')
    path = os.pathsep.join([str(tmp_path), *map(os.path.abspath, sys.path)])
    done = subprocess.run([sys.executable, '-c', 'from pet_classifier.entry import run; run()'], capture_output=True, text=True,
                          env=dict(os.environ, PYTHONPATH=path))
    assert (done.returncode, done.stdout, done.stderr) == (130, '', 'interrupted\n')


@posix
@pytest.mark.parametrize('raised, code, message', [('KeyboardInterrupt', 130, 'interrupted\n'),
    ('ImportError("no\\npandas")', 2, 'error: ImportError: no\\npandas (unexpected: `pet-classifier --debug` '
     'before the command shows where)\n')])
def test_a_failed_import_of_pandas_is_reported_in_one_line(raised, code, message, tmp_path):
    (tmp_path/'pandas.py').write_text(f'raise {raised}')
    path = os.pathsep.join([str(tmp_path), *map(os.path.abspath, sys.path)])
    done = subprocess.run([sys.executable, '-c', 'from pet_classifier.entry import run; run()', 'cache'], capture_output=True,
                          text=True, env=dict(os.environ, PYTHONPATH=path))
    assert (done.returncode, done.stdout, done.stderr) == (code, '', message)


@posix
def test_ctrl_c_in_a_weakref_callback_is_not_lost():
    p = program('import time, weakref\n    def stop(ref): raise KeyboardInterrupt\n    class A: pass\n    a = A()\n'
                '    ref = weakref.ref(a, stop)\n    del a\n    return console.exit_code(lambda: time.sleep(60))')
    out, err = p.communicate(timeout=50)
    assert (p.returncode, out, err) == (130, '', 'interrupted\n')


@posix
def test_ctrl_c_after_the_work_has_no_traceback():
    p = program('import threading, time\n    threading.Thread(target=time.sleep, args=[60]).start(); print("done", flush=True)')
    assert p.stdout.readline() == 'done\n'
    time.sleep(0.3)
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=50)
    assert p.returncode in (-signal.SIGINT, 130) and not err


def test_own_warnings_are_printed_once_and_others_hidden(capsys, monkeypatch):
    ours = 'import warnings\ndef warn(text): warnings.warn(text, stacklevel=2)'
    exec(ours, module := dict(__name__='pet_classifier.model.features'))  # noqa: S102
    with shown_warnings():
        for _ in range(3):
            module['warn']('the features are not kept:\nno room')
            warnings.warn('a library speaks to programmers', stacklevel=1)
    assert capsys.readouterr().err == 'warning: the features are not kept:\\nno room\n'


def test_a_stage_is_printed_on_a_terminal_only(capsys, monkeypatch):
    stage('loading')
    assert capsys.readouterr() == ('', '')
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)
    stage('loading')
    assert capsys.readouterr() == ('', 'loading\n')


NAMES = ['a\nb.jpg', '\033]0;pwned\007\033[2J.jpg', 'caf\udce9.jpg', '\u202egpj.exe', '\x9b2J.jpg', 'a\rb.jpg']


@pytest.mark.parametrize('name', NAMES, ids=range(len(NAMES)))
@pytest.mark.parametrize('terminal', [True, False])
def test_no_control_character_is_printed(name, terminal, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: terminal)
    say(f'left out: {name}')
    print_table(pd.DataFrame(dict(file=[name], n=[1])))
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 3 and all(line.isprintable() for line in out.splitlines()) and out.encode()


@posix
def test_pipes_and_folders_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path/'fifo.csv')
    (tmp_path/'old.csv').touch()
    wrong = (tmp_path/'fifo.csv', 'a pipe or a device'), (tmp_path, 'is a folder'), (tmp_path/'old.csv'/'x', 'old.csv')
    for there, message in wrong:
        with pytest.raises((ValueError, OSError), match=message): file_to_write(there)
    assert file_to_write(tmp_path/'new'/'new.csv') == tmp_path/'new'/'new.csv'
    (tmp_path/'link.csv').symlink_to(tmp_path/'fifo.csv')
    assert file_to_write(tmp_path/'old.csv', '.csv') == tmp_path/'old.csv'
    with pytest.raises(ValueError, match='pipe'): file_to_write(tmp_path/'link.csv')


@posix
@pytest.mark.parametrize('words', [
    ['check', '{data}', '--out', '{fifo}.csv'], ['predict', '{bundle}', '{data}', '--out', '{fifo}.csv'],
    ['find-lr', '{data}', '--out', '{fifo}.png'], ['export', '{bundle}', '--onnx', '{fifo}.onnx']])
def test_no_command_replaces_a_pipe(words, tiny_folder, tmp_path, capsys):
    for suffix in 'csv', 'png', 'onnx': os.mkfifo(tmp_path/f'fifo.{suffix}')
    assert main([w.format(data=tiny_folder, bundle='nowhere', fifo=tmp_path/'fifo') for w in words]) == 2
    assert 'a pipe or a device' in capsys.readouterr().err and (tmp_path/'fifo.csv').is_fifo()
