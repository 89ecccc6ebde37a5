"All of it, for a notebook: `from pet_classifier.all import *`"
from .breeds import *
from .bundle import *
from .datasets import *
from .drawing import *
from .features import *
from .images import *
from .interpret import *
from .labels import *
from .learner import *
from .loaders import *
from .lr import *
from .predict import *
from .progress import *
from .run import *
from .splits import *
from .storage import *
from .training import *
