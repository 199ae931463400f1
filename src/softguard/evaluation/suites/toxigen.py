"""ToxiGen: hateful and neutral statements about the same groups, said to the model as they are."""

from softguard.data.toxigen import toxigen
from softguard.evaluation.suites.suite import SUITES, Suite

TOXIGEN = SUITES.register("toxigen")(
    Suite(
        title="ToxiGen, rated by people",
        source="Hartvigsen et al. 2022, arXiv 2203.09509; huggingface.co/datasets/toxigen/toxigen-data",
        licence="no licence stated",
        size=940,
        metric=(
            "AUC of a classifier of hate; no answers are asked for. Ours: attack success by the named judge, refusal of the "
            "neutral statements, and the AUC of the refusal log-odds between the two"
        ),
        load=toxigen,
        groups=("safety", "over-refusal"),
    )
)
