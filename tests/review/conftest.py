"Eighteen drawn images as they are reviewed: three classes, two wrong labels, a broken file."
import pytest


@pytest.fixture
def folder(tiny_folder, tmp_path):
    (copy := tmp_path/'images').mkdir()
    for f in tiny_folder.iterdir(): (copy/f.name).write_bytes(f.read_bytes())
    (copy/'red_0.jpg').rename(copy/'green_90.jpg')
    (copy/'blue_1.jpg').rename(copy/'red_91.jpg')
    (copy/'red_92.jpg').write_text('not an image')
    return copy


@pytest.fixture
def opened(folder):
    "The images, with their mean colors as features"
    import numpy as np
    from PIL import Image

    from pet_classifier.data.images import list_images
    from pet_classifier.review.source import ReviewData
    files = [f for f in list_images(folder) if f.name != 'red_92.jpg']
    labels = np.array([f.name.split('_')[0] for f in files], dtype=object)
    features = np.stack([np.asarray(Image.open(f).resize((1, 1)), np.float32).ravel()/255 for f in files])
    broken = [(folder/'red_92.jpg', 'not an image', 'red')]
    return ReviewData(files, labels, ['']*len(files), broken, folder, features, [], str(folder))


@pytest.fixture
def session(opened, tmp_path):
    "A function that opens a review of the images, on the same file of corrections each time"
    from pet_classifier.data.corrections import Corrections
    from pet_classifier.review.session import ReviewSession
    sessions = []
    def session(data=opened, **kwargs):
        sessions.append(ReviewSession(data, Corrections(tmp_path/'corrections.csv', data.root), **kwargs))
        return sessions[-1]
    yield session
    for s in sessions: s.worker.shutdown()


@pytest.fixture
def row(opened):
    "A function from the name of an image to its row"
    return {f.name: i for i, f in enumerate(opened.files)}.__getitem__
