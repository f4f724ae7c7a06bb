"""The training session of the app: training thread, event buffer, run state, checkpoints of the session."""
