"""Which shape should the embedded guard have? Variants (a) to (d) and packaged classifiers on the same labelled sets.

python -m benchmarks.guard_variants --data-dir ../shared/data --work runs/guard-variants --only mini,frozen_minilm,probe,base_lora

(a) `frozen_minilm`: MiniLM as it is, pair features, a small MLP. (b) `mini`: MiniLM with a low-rank adapter, what we ship.
(c) `base_lora`: a low-rank adapter on the base model, which then writes its verdict. (d) `probe`: a linear probe on the base
model's own states. All but `mini` learn from one draw of its training pairs. The sampled answers in WORK are those of
`softguard guard train --out WORK`.
"""
