"The lesson on a stand-in for a GPU, in a process of its own: torch counts its devices at the first backward pass."
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_lesson_on_a_stand_in_for_a_gpu():
    file = Path(__file__).with_name('standin_lesson.py')
    ran = subprocess.run([sys.executable, '-m', 'pytest', '-q', '-x', '-p', 'no:cacheprovider', str(file)],
                         capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr[-1000:]
