"""One file a target: `losses(logits, log_softmax, labels, **options)` says what a branch learns, (B,) before weights.

logits: (B, C) the branch's. log_softmax: (B, C) the frozen backbone's. labels: (B,) int64.
"""
