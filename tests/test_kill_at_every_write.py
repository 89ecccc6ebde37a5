"Killed at any system call that writes, there is the old or the new, whole; the tool of the same name tries all of them."
import shutil
import subprocess
import sys
from pathlib import Path

import kill_at_every_write as tool
import pytest

can_trace = shutil.which('strace') and subprocess.run(  # noqa: S603
    ['strace', '-qq', '-e', 'trace=none', 'true'], capture_output=True).returncode == 0  # noqa: S607
pytestmark = [pytest.mark.slow, pytest.mark.skipif(
    not (sys.platform == 'linux' and can_trace), reason='strace is not here, or may not trace')]


@pytest.fixture(scope='module')
def writers(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PET_CLASSIFIER_CACHE', str(tmp_path_factory.mktemp('cache')))
        yield tool.writers(*tool.prepared(tmp_path_factory.mktemp('prepared')))


@pytest.mark.parametrize('name, every', [('bundle', 2), ('cache entry', 2), ('run file', 1), ('table', 6), ('Space', 4)])
def test_nothing_is_lost(writers, tmp_path, name, every):
    if name == 'Space': pytest.importorskip('gradio')
    kills, wrong = tool.kill_everywhere(name, *writers[name], Path(tmp_path), every)
    assert kills > 4 and wrong == []
