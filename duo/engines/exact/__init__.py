"""How `--exact` works: the same text gets the same bits, whatever else the machine computes.

- `widths`: a class of pass widths that give a row the same bits.
- `search`: finds the classes of this machine, by comparing logits bit by bit.
- `price`: what it costs to keep to a class, from the measured cost curve.
- `decision`: loads a target and decides, by the flag and the price, whether it keeps to a class.
- `engine`: the engine that keeps to one.
"""
