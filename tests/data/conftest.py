"Image files, shared by the tests of cropping and of caching."
import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def files(tmp_path):
    "Seven images of random texture, of different shapes and formats"
    made = []
    for i, (w, h) in enumerate([(60, 40), (40, 60), (50, 50), (33, 90), (91, 34), (16, 16), (200, 150)]):
        made.append(tmp_path/'own'/f'{i}{(".png", ".jpg")[i % 2]}')
        made[-1].parent.mkdir(exist_ok=True)
        noise = np.random.default_rng(i).integers(0, 255, (h//4, w//4, 3), np.uint8)
        Image.fromarray(noise).resize((w, h), Image.Resampling.BICUBIC).save(made[-1])
    return made
