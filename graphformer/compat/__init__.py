"""Reading models that other code wrote; each subpackage is one origin."""
