"What came from elsewhere is answered, whatever is in it; tools/fuzz.py does the same for as long as it is asked to."
from collections import Counter

import pytest
from fuzz import TARGETS, fuzz

pytestmark = pytest.mark.slow


@pytest.mark.filterwarnings('ignore')  # Pillow tells much about what it repairs
@pytest.mark.parametrize('name', TARGETS)
def test_made_up_bytes_are_answered(name):
    fuzz(name, 100, counts := Counter())
    assert sum(counts.values()) >= 50 and counts[f'{name} refused'] > 0
