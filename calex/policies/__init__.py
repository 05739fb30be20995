"""One file a policy: it turns exits into thresholds and never retrains a branch."""
