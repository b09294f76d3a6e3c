"""The stages of an experiment: extract, score, pretrain, evaluate."""
