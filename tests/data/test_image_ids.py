"Ids of images change with the file, and with nothing else."
import os

import pytest

from pet_classifier.data.image_ids import image_ids
from pet_classifier.data.images import ImageProblem


def test_image_ids_change_with_the_file(tmp_path, monkeypatch):
    file, other = tmp_path/'a.jpg', tmp_path/'b.jpg'
    for f in file, other:
        f.write_bytes(b'one')
        os.utime(f, ns=(10**18, 10**18))
    first, second = image_ids([file, other])
    assert first != second and len(bytes.fromhex(first)) == 16
    monkeypatch.chdir(tmp_path)
    assert image_ids(['b.jpg', 'a.jpg']) == [second, first]  # also by a relative path
    seen = {first}
    for content, when in (b'two', 10**18 + 1), (b'three', 10**18), (b'one', 10**18 + 100):
        file.write_bytes(content)
        os.utime(file, ns=(when, when))
        seen.add(image_ids([file])[0])
    assert len(seen) == 4 and image_ids([other]) == [second]
    assert image_ids([]) == []


def test_image_ids_accept_names_that_are_not_utf8(tmp_path):
    file = os.fsdecode(os.fsencode(tmp_path/'a') + b'\xff.jpg')
    with open(file, 'wb') as f: f.write(b'x')
    assert len(image_ids([file])[0]) == 32


def test_a_missing_image_raises_an_error_with_its_name(tmp_path):
    with pytest.raises(ImageProblem, match='gone.jpg: cannot be reached: No such file'): image_ids([tmp_path/'gone.jpg'])
