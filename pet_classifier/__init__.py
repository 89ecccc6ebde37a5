"A folder of photos to a classifier you understand and can trust."
import warnings

from .core.telemetry import no_telemetry

__version__ = "0.0.1"

no_telemetry() # before anything that has some is imported
# fastai 2.8 calls torch.jit.script when it is imported; the deprecation warning of torch concerns fastai, not its users.
warnings.filterwarnings('ignore', message='`torch.jit.script`', category=FutureWarning)


def __getattr__(name):
    "Import `Predictor` on first access, because its dependencies take seconds to import"
    if name != 'Predictor': raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from .deploy.predictor import Predictor
    return Predictor
