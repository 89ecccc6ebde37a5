"More images are made from a folder without touching it."
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parents[1]/'benchmarks'


def test_variants_lie_beside_links_to_images_that_stay_as_they_are(tmp_path, monkeypatch, draw):
    monkeypatch.syspath_prepend(str(HERE))
    from growth import make_images
    (source := tmp_path/'source').mkdir()
    for name in 'pug_1', 'pug_11', 'beagle_1', 'beagle_11': draw(source/f'{name}.jpg', 'red', len(name))
    was = {f.name: f.read_bytes() for f in source.iterdir()}
    make_images(source, tmp_path/'more', 20)
    made = list((tmp_path/'more').iterdir())
    assert len(made) == 20 and {f.name: f.read_bytes() for f in source.iterdir()} == was
    assert sum(f.is_symlink() for f in made) == 4
    for f in made: Image.open(f).load()
