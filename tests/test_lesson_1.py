"Lesson 1: short before its first result, and the answers of its exercises run and say what the text says."
import html
import json
import re
from pathlib import Path

import pytest

LESSON = Path(__file__).parents[1]/'nbs'/'lessons'/'1_resnet34.ipynb'
CELLS = json.loads(LESSON.read_text(encoding='utf-8'))['cells']
SOURCES = [''.join(c['source']) for c in CELLS]
CODE = [s for s, c in zip(SOURCES, CELLS) if c['cell_type'] == 'code']


def test_the_first_code_cell_trains_and_little_stands_before_it():
    assert [c['cell_type'] for c in CELLS[:2]] == ['markdown', 'code'] and len(SOURCES[0].split()) <= 150
    lines = [line for line in SOURCES[1].splitlines() if line and not line.startswith(('%', 'from'))]
    assert 'fit_head(learn)' in lines and len(lines) <= 6 and "'sample'" in lines[0]


def test_the_second_and_third_have_the_readers_photo_and_the_sliders():
    assert 'upload_photo(predictor)' in CODE[1] and 'draw_and_predict(predictor' in CODE[2]


@pytest.mark.slow
def test_the_answers_of_the_exercises_run():
    "They stand on the first cell and on what cross-validation pooled"
    exercises = next(s for s in SOURCES if '### Three exercises' in s)
    answers = re.findall('<pre><code>(.*?)</code></pre>', exercises, re.DOTALL)
    assert len(answers) == 3
    space = {}
    first = re.sub(r'^%.*\n', '', CODE[0], flags=re.M).rpartition('\n')[0]  # without the plot
    pooling = next(s for s in CODE if s.startswith('rounds =')).split('pooled.plot')[0]
    for code in ['from fastai.vision.all import *', first, pooling, *map(html.unescape, answers)]: exec(code, space)  # noqa: S102
    hardest, error = space['hardest'], space['learn'].validate()[1]
    assert {'Bengal', 'Egyptian_Mau'} <= set(hardest.breed)
    assert error < space['few_error'] < 0.4 and max(space['errors']) < 0.2
