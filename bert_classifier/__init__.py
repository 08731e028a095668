"""What a run of run_classifier.py needs around the plain scripts.

One concern a file. A file here may import the plain scripts beside this folder
(modeling, optimization, tokenization, estimator_bridge), which import nothing
of it; run_classifier tells the story and imports everything.
"""
