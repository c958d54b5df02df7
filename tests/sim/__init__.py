"""The simulated world: the real agent and the real campaign engine over fakes that are nastier than reality."""
