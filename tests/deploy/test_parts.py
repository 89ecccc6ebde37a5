"A part is written once and whole; a process that ends is replaced, and only an image that ends every process is named."
import os
import signal
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pet_classifier.deploy.parts import MAX_CRASHES, PartProcess, PartWriter, part_file

NAMES = [b'a', b'bomb', b'c']


class Rows:
    "Rows that note each call beside the parts, and may end their process as `ends(calls so far, files)` says"
    def __init__(self, log, ends): self.log, self.ends = log, ends

    def __call__(self, files):
        with open(self.log, 'a') as f: f.write(f'{os.getpid()} {" ".join(f.name for f in files)}\n')
        if self.ends(len(self.log.read_text().splitlines()), [f.name for f in files]): os.kill(os.getpid(), signal.SIGKILL)
        return pa.table(dict(x=[len(f.name) for f in files]))


@pytest.fixture
def watched(tmp_path):
    "A function from `ends` to a `PartProcess`, and a list of what was asked of its processes"
    made, log = [], tmp_path/'log'
    def make(ends):
        (tmp_path/'rows').mkdir()
        made.append(PartProcess(lambda: Rows(log, ends), tmp_path/'rows', tmp_path))
        return made[0], lambda: [line.split(' ', 1) for line in log.read_text().splitlines()]
    yield make
    for process in made: process.close()


def test_a_part_that_is_done_again_is_the_same_file(tmp_path):
    calls = []
    class Letters:
        def __call__(self, files):
            calls.append([f.name for f in files])
            return pa.table(dict(x=list(range(len(files)))))
    writer = PartWriter(Letters, tmp_path, tmp_path)
    for _ in range(3): writer.write(2, 20, [b'a', b'b'])
    assert calls == [['a', 'b']] and [f.name for f in tmp_path.iterdir()] == ['part-0000002.parquet']
    assert pq.read_table(part_file(tmp_path, 2)).to_pydict() == dict(number=[20, 21], file=['a', 'b'], x=[0, 1])


def test_a_disk_that_refuses_is_said_and_leaves_no_part(tmp_path, monkeypatch):
    def full(fd): raise OSError(28, 'No space left on device')
    monkeypatch.setattr('os.fsync', full)
    writer = PartWriter(lambda: lambda files: pa.table(dict(x=[1])), tmp_path, tmp_path)
    with pytest.raises(OSError, match='No space left'): writer.write(0, 0, [b'a'])
    assert not [*tmp_path.glob('part*')]


@pytest.fixture
def one_crash(monkeypatch): monkeypatch.setattr('pet_classifier.deploy.parts.MAX_CRASHES', 1)  # a new process takes a second


@pytest.mark.slow
def test_processes_that_are_killed_are_no_images_fault(watched):
    process, calls = watched(lambda calls, files: calls <= MAX_CRASHES)
    process.write(part=0, first=5, names=NAMES)
    rows = pd.read_parquet(process.writer.folder)
    assert rows.to_dict('list') == dict(number=[5, 6, 7], file=['a', 'bomb', 'c'], x=[1, 4, 1])
    assert len({pid for pid, _ in calls()}) == MAX_CRASHES + 1  # each in a process of its own
    process.write(part=1, first=8, names=[b'd'])
    assert calls()[-1] == [calls()[-2][0], 'd']  # which stays, and loads once


@pytest.mark.slow
def test_an_image_that_ends_every_process_alone_is_named_and_no_other(watched, one_crash):
    process, calls = watched(lambda calls, files: 'bomb' in files)
    asked = process(pa.table(dict(part=[0], first=[0], names=[NAMES])))  # as Ray does
    assert "'bomb' crashed 1 new processes" in asked['error'][0].as_py()
    assert [files for _, files in calls()] == ['a bomb c', 'a', 'bomb', 'bomb', '']
    assert len({pid for pid, files in calls() if files == 'bomb'}) == 2
    assert not list(Path(process.writer.folder).iterdir())


@pytest.mark.slow
def test_a_process_that_ends_by_itself_blames_no_image(watched, one_crash):
    process, _ = watched(lambda calls, files: True)
    with pytest.raises(OSError, match='the worker processes crash without an image; is there enough memory'):
        process.write(part=0, first=0, names=NAMES)


def test_what_was_closed_starts_nothing_anew(watched):
    process, _ = watched(lambda calls, files: False)
    process.close()
    with pytest.raises(OSError, match='cancelled'): process.write(part=0, first=0, names=NAMES)
