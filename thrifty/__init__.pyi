from thrifty.api import build_network as build_network
from thrifty.api import check_study as check_study
from thrifty.api import read_genotype as read_genotype
from thrifty.api import read_study as read_study
from thrifty.api import run_study as run_study
from thrifty.config import Study as Study
from thrifty.errors import ThriftyError as ThriftyError
from thrifty.predict import predict_files as predict_files
from thrifty.predictor import Predictor as Predictor
from thrifty.predictor import load as load

__version__: str
__all__: list[str]
