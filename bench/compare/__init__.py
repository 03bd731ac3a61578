"""`python -m bench compare`: ours against every other schedule of the same two models, in one interleaved run.

options.py    the command line
run.py        the command: loads, asks, writes
names.py      the schedules by name
entrants.py   who competes, and how each is made
schedules.py  the schedules that are ours: a lead with a back, and synchronous speculation
others.py     llama.cpp's server and transformers' assisted generation; ours with backs that do harm
speculate.py  synchronous speculation, and the bounds of free drafts
worker.py     the process that runs those, and the channel to it
badback.py    a back that guesses at random
prompts.py    what is asked
trial.py      who is asked when: pilots, warm-ups, turns
figures.py    what was measured, and the statistics of it
report.py     JSON, Markdown and the chart of speed-ups
timeline.py   one answer, traced, as a picture
"""
