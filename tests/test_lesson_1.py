"Lesson 1 is short before its first result."
import json
from pathlib import Path

LESSON = Path(__file__).parents[1]/'nbs'/'lessons'/'1_resnet34.ipynb'
# without the folded cell that installs the package where it is missing
CELLS = [c for c in json.loads(LESSON.read_text(encoding='utf-8'))['cells'] if 'jupyter' not in c['metadata']]
SOURCES = [''.join(c['source']) for c in CELLS]
CODE = [s for s, c in zip(SOURCES, CELLS) if c['cell_type'] == 'code']


def test_the_first_code_cell_trains_and_little_stands_before_it():
    assert [c['cell_type'] for c in CELLS[:2]] == ['markdown', 'code'] and len(SOURCES[0].split()) <= 150
    lines = [line for line in SOURCES[1].splitlines() if line and not line.startswith(('%', 'from'))]
    assert 'fit_head(learn)' in lines and len(lines) <= 6 and "'sample'" in lines[0]


def test_the_second_and_third_have_the_readers_photo_and_the_sliders():
    assert 'upload_photo(predictor)' in CODE[1] and 'draw_and_predict(predictor' in CODE[2]
