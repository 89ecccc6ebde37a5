"A folder of photos to a classifier you understand and can trust."
import warnings

__version__ = "0.0.1"

# fastai 2.8 calls torch.jit.script when it is imported; what torch says to that is for fastai's authors, not for its users.
warnings.filterwarnings('ignore', message='`torch.jit.script`', category=FutureWarning)
