"""Which shape should the embedded guard have? Variants (a) to (d) and packaged classifiers on the same pairs.

python -m pip install --no-deps --target SITE alt-profanity-check==1.9.1 prompt-guardrail==1.0.1 \\
    metatronnanoguard==0.1.0 tiktoken==0.14.0 hatesonar==0.1.0 onnxruntime==1.23.2
PYTHONPATH=SITE python -m benchmarks.guard_variants --data-dir ../shared/data --work runs/guard-variants

(a) `frozen_minilm`: MiniLM as it is, pair features, a small MLP. (b) `mini`: MiniLM with a low-rank adapter, what we ship, and
`mini_same_draw`: its training on the draw of pairs that the other variants learn from. (c) `base_lora`: a low-rank adapter on the
base model, which then writes its verdict. (d) `probe`: a linear probe on the base model's own states. `reference`: the judge of
our evaluations, trained on other labels. The rest are classifiers from a registry, as they come (`packaged.py`): most unpickle
their own weights, which the product never does, so run them where you would run any package that you install. hatesonar wants
the locale en_US.UTF-8.

Without SITE the packaged classifiers are listed as not run. WORK keeps features and the base model's answers; `variants.json` and
`variants.md` are written after each variant, and `--only` names those that are left.
"""
