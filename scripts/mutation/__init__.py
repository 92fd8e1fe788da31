"""Small changes to the losses and to the oracles, and a count of those that are noticed."""
