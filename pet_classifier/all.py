"Names for notebooks: `from pet_classifier.all import *`. Import everything else from its module."
from .data.augment import default_augment  # augmentation of training images, as in the lesson
from .data.breeds import BREEDS  # the 37 breeds of Oxford-IIIT Pet
from .data.corrections import apply_corrections  # labels corrected after a review
from .data.datasets import dataset, draw_sample  # folder of a data set, generated or downloaded on first use
from .data.drawing import contact_sheet, draw_pet  # drawn pets, and a grid of images
from .data.images import check_images, ImageProblem, list_images, open_image  # list, check and open images
from .data.labels import (  # labelled tables from seven label sources
    label_by_folder, label_by_function, label_by_name, label_by_path, label_from_csv, label_from_df,
    label_from_lists, PETS_PATTERN, preview_pattern,
)
from .data.loaders import loaders  # fastai DataLoaders over a labelled table
from .data.crops import load_crop  # an image as network input
from .data.sources import labelled_images  # labelled table of a folder or a file of labels
from .data.splits import load_split, official_split, random_split, save_split, split_summary  # training and validation split
from .model.bundle import load_bundle  # load a bundle: a folder of safetensors and JSON
from .model.bundle_writer import save_bundle, versions  # save a learner as a bundle
from .model.pretrained import pretrained_features  # features of a pretrained body, cached
from .model.gradcam import grad_cam  # Grad-CAM heat maps
from .evaluation.calibration import (  # calibration and confidence intervals
    calibrate, error_interval, fit_temperature, plot_reliability,
)
from .evaluation.label_issues import duplicate_pairs, find_label_issues  # label issues and near-duplicates
from .evaluation.interpretation import interpret, PetInterpretation  # evaluation of a learner, with plots
from .evaluation.ood import ood_threshold  # out-of-distribution threshold
from .training.learner_features import image_features  # features of a learner's body, cached
from .training.cross_validation import cross_validate  # cross-validated predictions for every image
from .training.head import fit_head  # train the head on cached features
from .training.learner import frozen_groups, pet_learner  # fastai Learner with a pretrained body
from .training.lr_finder import find_lr, SuggestedRate  # learning rate range test
from .training.fine_tuning import fine_tune, group_rates, load_stage, save_stage  # unfreeze and train; save and load stages
from .deploy.demo import page_answer, serve  # web page that classifies photos
from .deploy.hub import push_to_hub  # push a bundle to the Hugging Face Hub
from .deploy.onnx import export_onnx  # export a bundle to ONNX
from .deploy.predictions import Prediction  # predicted class with all probabilities
from .deploy.predictor import Predictor  # predict with a bundle
from .deploy.scale import predict_on_ray  # predict on all cores or on a Ray cluster
from .deploy.space import write_space  # write the web page as a Hugging Face Space
from .deploy.web import write_site  # write a static web page that classifies in the browser
from .deploy.tables import predict_table  # predict many images into a CSV or Parquet file
from .deploy.suggestion import suggest_images  # select unlabelled images to label next
from .training.comparison import compare_backbones  # cross-validated error and cost of several backbones
from .training.learning_curve import learning_curve  # expected error with more images
from .core.keywords import BELONGS, KEYWORDS  # keywords of fastai 1 and their equivalents
from .core.progress import history  # training history, one row per epoch
from .report import write_report  # HTML report of a run
from .run import labelled_table, train_run  # a complete training run
from .widget import review  # review and correct labels in a notebook
