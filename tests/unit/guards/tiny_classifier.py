"""A tiny random sequence classifier, written as a Hugging Face folder."""

from pathlib import Path

import torch
from transformers import BertConfig, BertForSequenceClassification

from tests.unit.guards.tiny_backbone import write_tiny_backbone


def write_tiny_classifier(folder: Path, labels: tuple[str, ...], problem: str = "single_label_classification") -> Path:
    write_tiny_backbone(folder)
    config = BertConfig.from_pretrained(folder, num_labels=len(labels))
    config.id2label, config.label2id = dict(enumerate(labels)), {label: i for i, label in enumerate(labels)}
    config.problem_type = problem
    torch.manual_seed(1)
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder
