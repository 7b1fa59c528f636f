"""
The two training programs, SCoRe and CLoud, from options to a saved model: what `trl-score score` and `trl-score cloud`
run, and examples/train_score.py and examples/train_cloud.py.
"""
