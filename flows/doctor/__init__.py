"""`fewstep doctor`: what could stop a run, looked at before it does. One module for each part of the surroundings."""
