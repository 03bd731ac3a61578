"""`python -m bench compare`: ours against every other schedule of the same two models, in one interleaved run.

options.py       the command line.
run.py           the command: loads, asks, writes.
names.py         the entrants by name.
lineup.py        who competes, and how each entrant is made.
entrant.py       what an entrant is, and how it is asked.
ours.py          our own programs: a lead with a back, without one, and with backs that do harm.
synchronous.py   synchronous speculation and the bounds, which the worker runs.
others.py        llama.cpp's server and transformers' assisted generation.
peers.py         other people's programs as processes: llama_server.py and assisted.py are the two.
speculate.py     synchronous speculation, and the bounds of free drafts.
worker.py        the process that runs those, and the channel to it.
badback.py       a back that guesses at random.
trial.py         who is asked when: pilots, warm-ups, turns.
figures.py       what was measured, and its statistics.
report.py        JSON, Markdown and the chart of speed-ups.
timeline.py      one answer, traced, as a picture.

Commands of their own: plain.py, exactness.py, hybrid.py.
"""
