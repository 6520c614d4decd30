"""The command line's own commands: doctor, top, clean, and the supervisor behind ``run -- COMMAND``."""
