"""Several models by name behind one port. Each is a lead in a process of its own, loaded when it is asked for.

- `registry.py`: which models are loaded, which requests wait, which model goes. Pure.
- `places.py`: which model a back drafts for. Pure.
- `settings.py`: the file that --models names.
- `child.py`: what runs in the process of a model.
- `process.py`: that process, as the parent sees it.
- `pool.py`: carries out what the registry decides.
- `app.py`, `forward.py`, `listing.py`, `figures.py`: the HTTP side.
- `back_port.py`: the port for backs.
- `program.py`: what is started, wired together and stopped.
"""
