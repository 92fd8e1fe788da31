"""Hold any implementation of the losses against the oracles."""
